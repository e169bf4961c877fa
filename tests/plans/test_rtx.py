"""Building with TensorRT for RTX, which needs no GPU: parsing, typing, profiles, serialisation and what goes wrong.

What is proven here is that library's path; nothing of it is a result of TensorRT.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ntre_deploy.errors import EngineError, GateError, InputError
from ntre_deploy.export.graphs import query_graph
from ntre_deploy.export.onnx import query_signature, write_onnx
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import import_weights
from ntre_deploy.plans.builder import Built, build, check_precision
from ntre_deploy.plans.options import TensorRtOptions, profiles
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.engines.tensorrt import api

pytestmark = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")
no_gpu = pytest.mark.skipif(cuda.unavailable() is None, reason="there is a GPU here")

OPTIONS = TensorRtOptions(max_batch=4, max_classes=3, max_shots=2)
SM = ("8.6",)


@pytest.fixture(scope="module")
def library() -> api.Library:
    return api.load("trt-rtx")


def made(library: api.Library, exported: Path, role: str, precision: str, targets: tuple[str, ...] = SM) -> Built:
    name = f"{role}.onnx" if precision == "fp32" else f"{role}.{precision}.onnx"
    shapes = profiles("trt-rtx", role, 65, OPTIONS, (16, 512), 81)
    return build(library, (exported / name).read_bytes(), shapes, targets, OPTIONS, what=f"{precision} {role}")


@pytest.mark.parametrize("role", ["support", "query"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graphs_build_for_several_gpus_in_the_precision_of_their_file(
    library: api.Library, exported: Path, role: str, precision: str
) -> None:
    built = made(library, exported, role, precision, ("8.6", "8.9"))
    assert len(built.plan) > 100_000
    assert built.precision == precision
    check_precision(built, precision, role)
    convolutions = built.kernels["correlation"]
    assert sum(convolutions.values()) >= 20
    if precision == "fp16" and role == "query":
        # the logits and margins that must not run in 16 bits
        assert 0 < convolutions["fp32"] < convolutions["fp16"]


def test_fp16_that_came_out_in_fp32_fails_the_gate(library: api.Library, exported: Path) -> None:
    built = made(library, exported, "query", "fp32")
    with pytest.raises(GateError, match=r"asked for in fp16, and its convolutions came out in fp32 \(correlation") as e:
        check_precision(built, "fp16", "query")
    assert e.value.exit_code == 1


def test_a_missing_profile_is_explained(library: api.Library, exported: Path) -> None:
    content = (exported / "query.fp16.onnx").read_bytes()
    with pytest.raises(EngineError, match="no optimization profile has been defined; its dynamic axes need a profile"):
        build(library, content, [], SM, OPTIONS, what="query")


def test_a_profile_that_does_not_fit_is_explained(library: api.Library, exported: Path) -> None:
    content = (exported / "query.fp16.onnx").read_bytes()
    (profile,) = profiles("trt-rtx", "query", 65, OPTIONS, (16, 512), 81)
    wrong = profile | {"image": ((1, 3, 64, 64), (1, 3, 64, 64), (4, 3, 64, 64))}
    with pytest.raises(
        EngineError, match=r"TensorRT for RTX .* cannot build the query engine|does not take the shapes"
    ):
        build(library, content, [wrong], SM, OPTIONS, what="query")
    upside_down = profile | {"image": ((4, 3, 65, 65), (2, 3, 65, 65), (1, 3, 65, 65))}
    with pytest.raises(EngineError, match="query"):
        build(library, content, [upside_down], SM, OPTIONS, what="query")


def test_an_operator_that_is_unknown_is_named(library: api.Library, exported: Path) -> None:
    model = onnx.load_model(exported / "query.fp16.onnx")
    node = next(n for n in model.graph.node if n.op_type == "Relu")
    node.op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=rf"cannot read the query graph: NoSuchOperator '{node.name}'"):
        build(library, model.SerializeToString(), [], SM, OPTIONS, what="query")


@pytest.mark.parametrize("content", [b"", b"not onnx at all"])
def test_what_is_no_graph_is_refused(library: api.Library, content: bytes) -> None:
    with pytest.raises(InputError, match="query graph is not a readable ONNX file"):
        build(library, content, [], SM, OPTIONS, what="query")


def test_turing_lacks_fp32_products_and_the_error_says_what_to_do(library: api.Library, exported: Path) -> None:
    with pytest.raises(EngineError, match=r"SM75.*--precision fp16, leave 7\.5 out of --sm"):
        made(library, exported, "query", "fp16", ("7.5",))


@no_gpu
def test_a_plan_that_cannot_be_loaded_here_is_an_error_and_not_none(library: api.Library, exported: Path) -> None:
    built = made(library, exported, "support", "fp16")
    assert built.found_by == "builder"
    for plan in (built.plan, built.plan[: len(built.plan) // 2], b"x" * 1000):
        with pytest.raises(EngineError, match=r"TensorRT for RTX 1\.\S+ cannot load the engine: \w+") as caught:
            api.deserialise(library, api.make_logger(library), plan)
        assert "/_src/" not in str(caught.value)


def test_ctrl_c_stops_a_build_and_nothing_else(library: api.Library, exported: Path) -> None:
    def progress(step: str) -> None:
        raise KeyboardInterrupt

    content = (exported / "query.fp16.onnx").read_bytes()
    shapes = profiles("trt-rtx", "query", 65, OPTIONS, (16, 512), 81)
    with pytest.raises(KeyboardInterrupt):
        build(library, content, shapes, SM, OPTIONS, progress=progress)
    assert build(library, content, shapes, SM, OPTIONS).precision == "fp16"


def test_progress_names_phases_and_shares(library: api.Library, exported: Path) -> None:
    lines: list[str] = []
    content = (exported / "support.fp16.onnx").read_bytes()
    shapes = profiles("trt-rtx", "support", 65, OPTIONS, (16, 512), 81)
    build(library, content, shapes, SM, OPTIONS, what="the support engine", progress=lines.append)
    assert len(lines) > 5
    assert all(line.startswith("building the support engine: ") and "%" in line for line in lines)


def quantised(zero_point: np.dtype[Any]) -> bytes:
    """A convolution between QDQ pairs, whose activations are of that type and whose weights are signed."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-100, 100, (64, 32, 3, 3)).astype(np.int8)
    constants = {
        "scale": np.float32(0.05),
        "zero": np.zeros((), zero_point),
        "weights": weights,
        "weight_scale": np.full(64, 0.01, np.float32),
        "weight_zero": np.zeros(64, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantise"),
        helper.make_node(
            "DequantizeLinear", ["weights", "weight_scale", "weight_zero"], ["w"], "dequantise_weights", axis=0
        ),
        helper.make_node("Conv", ["d", "w"], ["y"], "convolution", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 16, 16])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def test_explicit_signed_quantisation_runs_in_int8_and_unsigned_is_refused(library: api.Library) -> None:
    built = build(library, quantised(np.dtype(np.int8)), [], SM, OPTIONS)
    assert built.precision == "int8", built.kernels
    with pytest.raises(
        InputError, match=r"2 unsigned activations \(the first is quantise\).*--engine trt --precision int8"
    ):
        build(library, quantised(np.dtype(np.uint8)), [], SM, OPTIONS)


def test_the_options_reach_the_builder(library: api.Library, exported: Path) -> None:
    content = (exported / "support.fp16.onnx").read_bytes()
    shapes = profiles("trt-rtx", "support", 65, OPTIONS, (16, 512), 81)
    options = TensorRtOptions(workspace_mib=256, effort=1)
    assert build(library, content, shapes, SM, options).precision == "fp16"


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, NTRENet]:
    """The fp16 query graph of the paper's network at its size."""
    model, _ = import_weights("random:1", NTRENetConfig(backbone="resnet50", input_size=473))
    assert isinstance(model, NTRENet)
    path = tmp_path_factory.mktemp("resnet50") / "query.fp16.onnx"
    signature = query_signature(473, model.prototype_channels, model.key_channels, torch.float16)
    write_onnx(query_graph(model, 473, torch.float16), signature, path)
    return path.read_bytes(), model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (TensorRtOptions(max_batch=1, max_classes=1, max_shots=1), 100e6),
        (TensorRtOptions(max_batch=1, max_classes=10, max_shots=5), 300e6),
        (TensorRtOptions(), 1e9),
    ],
)
def test_scratch_memory_stays_small(
    library: api.Library, resnet50: tuple[bytes, NTRENet], options: TensorRtOptions, limit: float
) -> None:
    content, model = resnet50
    channels = (model.prototype_channels, model.key_channels)
    shapes = profiles("trt-rtx", "query", 473, options, channels, 60 * 60)
    built = build(library, content, shapes, SM, options, what="query")
    assert built.scratch is not None
    assert 10e6 < built.scratch < limit

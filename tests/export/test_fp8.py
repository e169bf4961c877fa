"""fp8: what is quantised and how, that ONNX Runtime runs it as written, and what the search makes of it."""

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import GateError
from ntre_deploy.export import quantise
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.fp8 import fp8_quantiser, quantisable, quantise_fp8, ranges
from ntre_deploy.export.onnx import found_precision
from ntre_deploy.export.quantise import ALLOWED, Contents, Cost, Inputs, calibration_inputs, draw_calibration, groups
from ntre_deploy.plans.options import TensorRtOptions
from ntre_deploy.runtime.engines.onnx import CPU, input_types, make_session
from ntre_deploy.runtime.engines.tensorrt import api
from ntre_deploy.runtime.segmenter import Segmenter

E4M3 = TensorProto.FLOAT8E4M3FN


@pytest.fixture(scope="module")
def inputs(exported: Path) -> dict[str, Inputs]:
    scenes = ProceduralDataset(5)
    episodes = draw_calibration(scenes, 8, 8).calibrate.episodes
    return calibration_inputs(scenes, episodes, Segmenter.load(exported, "onnx-cpu", precision="fp32"))


@pytest.fixture(scope="module")
def most(for_fp8: Contents, inputs: dict[str, Inputs]) -> dict[str, dict[str, float]]:
    return {role: ranges(for_fp8[role], inputs[role]) for role in for_fp8}


def quantised(content: bytes) -> set[str]:
    """Names of the operators that read a dequantised value."""
    model = onnx.load_model_from_string(content)
    given = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.name for node in model.graph.node if given & set(node.input)}


@pytest.mark.parametrize("role", ["support", "query"])
def test_wide_fp16_convolutions_are_quantised_and_nothing_else(
    for_fp8: Contents, most: dict[str, dict[str, float]], role: str, tmp_path: Path
) -> None:
    content = quantise_fp8(for_fp8[role], most[role])
    before, model = onnx.load_model_from_string(for_fp8[role]), onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    expected = {node.name for node in quantisable(before)}
    assert quantised(content) == expected
    assert len(expected) > 20
    weights = {tensor.name: tensor for tensor in before.graph.initializer}
    for node in before.graph.node:
        if node.op_type == "Conv" and node.name not in expected:
            weight = weights[node.input[1]]
            assert weight.data_type == TensorProto.FLOAT or weight.dims[0] % 16 or weight.dims[1] % 16
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert (tensors[node.input[2]].data_type, list(tensors[node.input[2]].dims)) == (E4M3, [])
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            # one scale per output channel
            assert tensors[node.input[0]].data_type == E4M3
            assert list(tensors[node.input[1]].dims) == [tensors[node.input[0]].dims[0]]
    (tmp_path / "x.onnx").write_bytes(content)
    assert found_precision(tmp_path / "x.onnx") == "fp8"


def test_groups_that_are_kept_stay_as_they_are(for_fp8: Contents, most: dict[str, dict[str, float]]) -> None:
    model = onnx.load_model_from_string(for_fp8["query"])
    parts = groups(model)
    content = quantise_fp8(for_fp8["query"], most["query"], ("head", "features"))
    assert quantised(content) == {n.name for n in quantisable(model)} - {*parts["head"], *parts["features"]}
    assert quantise_fp8(for_fp8["query"], most["query"], list(parts)) == for_fp8["query"]


@pytest.mark.parametrize("role", ["support", "query"])
def test_onnx_runtime_runs_them_near_the_files_that_they_come_from(
    exported: Path, for_fp8: Contents, most: dict[str, dict[str, float]], inputs: dict[str, Inputs], role: str
) -> None:
    wanted = make_session((exported / f"{role}.onnx").read_bytes(), CPU, 1).run(None, inputs[role][0])
    session = make_session(quantise_fp8(for_fp8[role], most[role]), CPU, 1, precision="fp8")
    given = {name: np.asarray(inputs[role][0][name], kind) for name, kind in input_types(session).items()}
    # masks of random weights are undecided: the masks are judged where a trained network is exported
    for a, b in zip(session.run(None, given), wanted, strict=True):
        assert 0 < float(np.abs(a - b).mean()) < 0.15 * float(np.abs(b).mean())


def convolution(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """An fp16 convolution 1x1 with a bias, opset 19."""
    cout, cin = weight.shape[:2]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, cin, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, cout, 4, 4])],
        [numpy_helper.from_array(array.astype(np.float16), name) for name, array in (("w", weight), ("b", bias))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("size", [1e-4, 0.05, 30.0])
def test_values_are_rounded_to_e4m3_and_biases_are_not(size: float) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((16, 32, 1, 1)) * size).astype(np.float32)
    weight[3] = 0
    bias = rng.standard_normal(16).astype(np.float32)
    x = np.abs(rng.standard_normal((1, 32, 4, 4))).astype(np.float16)
    plain = convolution(weight, bias)
    content = quantise_fp8(plain, ranges(plain, [{"x": x}]))
    assert quantised(content) == {"conv"}
    (got,) = make_session(content, CPU, 1, precision="fp8").run(None, {"x": x})

    def rounded(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        wide = scale.astype(np.float32)
        return torch.from_numpy(values / wide).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy() * wide

    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(content).graph.initializer}
    small = rounded(weight.astype(np.float16).astype(np.float32), tensors["w_scale"].reshape(16, 1, 1, 1))
    values = rounded(x.astype(np.float32), tensors["x_scale"])
    wanted = np.einsum("oi,bihw->bohw", small[:, :, 0, 0], values) + bias[:, None, None]
    np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=4e-3, atol=4e-3 * max(size, 0.1))
    # three bits of mantissa
    large = np.abs(weight) > np.abs(weight).max() / 64
    assert (np.abs(small - weight)[large] / np.abs(weight)[large]).max() < 0.07


def test_ranges_are_the_largest_magnitudes_of_all_inputs(for_fp8: Contents, inputs: dict[str, Inputs]) -> None:
    alone = [ranges(for_fp8["support"], [given]) for given in inputs["support"][:3]]
    together = ranges(for_fp8["support"], inputs["support"][:3])
    assert together == {name: max(found[name] for found in alone) for name in together}
    assert min(together.values()) > 0
    types = input_types(make_session(for_fp8["query"], CPU, 1))
    assert types["keys"] == np.float16, "or the ranges need not cast what the fp32 graphs take"


# --- the search


def test_the_search_keeps_what_costs_and_does_not_judge_what_is_not_for_fp8(
    for_fp8: Contents, inputs: dict[str, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_model_from_string(for_fp8["query"])
    head, wide = set(groups(model)["head"]), {node.name for node in quantisable(model)}
    of = {
        name: "head" if name in head else "rest" if name in wide else "narrow"
        for m in groups(model).values()
        for name in m
    }
    monkeypatch.setattr(quantise, "_group", lambda node: of.get(node.name, "rest"))
    assert {"head", "rest", "narrow"} == set(groups(model))

    def judge(contents: Contents) -> Cost:
        return Cost(0.9 if quantised(contents["query"]) & head else 0.999, 0.0)

    result = quantise.search(for_fp8, inputs, judge, quantiser=fp8_quantiser(), precision="fp8")
    assert result.keep == ("head",)
    assert result.cost.agreement == 0.999
    assert set(result.alone) == {"rest", "head"}
    with pytest.raises(GateError, match=r"fp8 costs too much in every group of layers: at best 90\.00"):
        quantise.search(
            for_fp8,
            inputs,
            lambda contents: Cost(0.9, 0.0),
            quantiser=fp8_quantiser(),
            precision="fp8",
            allowed=ALLOWED,
        )


def test_ranges_are_found_once_for_all_attempts(
    for_fp8: Contents, inputs: dict[str, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(content: bytes, given: Inputs) -> dict[str, float]:
        calls.append(content)
        return dict.fromkeys((n.input[0] for n in quantisable(onnx.load_model_from_string(content))), 1.0)

    monkeypatch.setattr("ntre_deploy.export.fp8.ranges", counted)
    run = fp8_quantiser()
    keeps: list[Collection[str]] = [(), ("head",), ()]
    found = [run(for_fp8["query"], inputs["query"], keep) for keep in keeps]
    assert len(calls) == 1
    assert found[0] == found[2] != found[1]


needs_rtx = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")


@needs_rtx
@pytest.mark.slow
def test_a_trained_network_in_fp8_gives_masks_near_fp32_and_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # everything that can be quantised, whatever it costs: the search takes minutes
    monkeypatch.setattr(quantise, "_allows", lambda allowed, cost: True)
    demo = Path(str(files("ntre_deploy") / "assets" / "demo.safetensors"))
    plans = TensorRtOptions(("8.9",), max_batch=1, max_classes=1, max_shots=1)
    options = ExportOptions(
        precisions=("fp8",), engines=("trt-rtx",), input_size=65, calibrate_on=ProceduralDataset(11), tensorrt=plans
    )
    manifest = export_bundle(demo, tmp_path / "demo.ntre", options)
    (checked,) = manifest.verification
    assert (checked["engine"], checked["precision"]) == ("onnx-cpu", "fp8")
    assert {case["kind"] for case in checked["cases"]} == {"procedural:2022"}
    (graph,) = (f for f in manifest.files if (f.role, f.engine) == ("query", "onnx"))
    assert (graph.precision_found, graph.details["opset"]) == ("fp8", 19)
    assert graph.details["cost"]["agreement"] > 0.95
    assert graph.details["calibration"]["held_out"]["dataset"] == "procedural:11"
    for plan in (f for f in manifest.files if f.engine == "trt-rtx"):
        assert plan.name == f"{plan.role}.trt-rtx-fp8.sm_89.plan"
        assert (plan.precision_asked, plan.precision_found, plan.details["tf32"]) == ("fp8", "fp8", False)
        assert plan.details["kernels"]["correlation"]["fp8"] >= 20
    # the files run where a bundle of them is opened
    Segmenter.load(tmp_path / "demo.ntre", "onnx-cpu", precision="fp8")

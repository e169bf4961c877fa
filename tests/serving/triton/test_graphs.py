"""The bare graphs as models: ONNX Runtime runs them with the names, types and dimensions of their configurations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.files import sha256
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.encoding import compact_keys
from ntre_deploy.runtime.letterbox import prepare_image, prepare_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import stack
from ntre_deploy.serving.triton.graphs import find_graphs, graph_config, ports_by_format
from ntre_deploy.serving.triton.options import Options
from ntre_deploy.serving.triton.repository import write_repository
from ntre_deploy.serving.triton.textformat import to_text

onnxruntime = pytest.importorskip("onnxruntime")
NUMPY = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_INT32": np.int32}


@pytest.fixture(scope="module")
def repository(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    write_repository(exported, folder, Options(name="t", engine="onnx-cpu", max_batch=4, preferred=(2,)), graphs=True)
    return folder


@pytest.fixture(scope="module")
def run(repository: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Run a model as its configuration alone tells; inputs and outputs are checked against it."""
    pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    def call(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        config = text_format.Parse((repository / name / "config.pbtxt").read_text(), pb2.ModelConfig())
        kinds = pb2.DataType.Name
        assert config.platform == "onnxruntime_onnx"
        batch = [-1] if config.max_batch_size else []
        feeds = {}
        for port in config.input:
            feeds[port.name] = arrays[port.name].astype(NUMPY[kinds(port.data_type)])
            check(feeds[port.name], [*batch, *port.dims])
        session = onnxruntime.InferenceSession(
            repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        assert {i.name for i in session.get_inputs()} == set(feeds)
        assert {o.name for o in session.get_outputs()} == {port.name for port in config.output}
        found = dict(
            zip([p.name for p in config.output], session.run([p.name for p in config.output], feeds), strict=True)
        )
        for port in config.output:
            assert found[port.name].dtype == NUMPY[kinds(port.data_type)]
            check(found[port.name], [*batch, *port.dims])
        return found

    def check(array: np.ndarray, dims: list[int]) -> None:
        assert array.ndim == len(dims)
        assert all(dim in (-1, size) for dim, size in zip(dims, array.shape, strict=True)), (array.shape, dims)

    return call


@pytest.mark.parametrize("precision", ["", "_fp16"])
def test_the_graphs_give_what_the_runtime_gives(
    precision: str, run: Callable[..., dict[str, np.ndarray]], segmenter: Segmenter, shots: Any
) -> None:
    images = np.stack([prepare_image(image, segmenter.spec)[0] for image, _ in shots[:3]])
    masks = np.stack([prepare_mask(mask, segmenter.spec) for _, mask in shots[:3]])[:, None]
    support = run(f"t_support{precision}", {"image": images, "mask": masks})
    keys = [[compact_keys(support["keys"][n])] for n in range(2)]
    supports = stack(list(support["prototype"][:2]), keys)
    found = run(f"t_query{precision}", {"image": images} | supports._asdict())
    memories = [segmenter.encode_support([shots[n]]) for n in range(2)]
    for n, (image, _) in enumerate(shots[:3]):
        wanted = segmenter.logits(image, memories)[0]
        np.testing.assert_allclose(found["logits"][n], wanted, atol=0.05 if precision else 1e-4)


def test_the_support_graph_is_batched_and_the_query_graph_is_not(repository: Path) -> None:
    support, query = ((repository / name / "config.pbtxt").read_text() for name in ("t_support", "t_query"))
    assert "max_batch_size: 4" in support
    assert "preferred_batch_size: 2" in support
    assert "max_batch_size: 0" in query
    assert "dynamic_batching" not in query


def test_the_format_of_bundles_tells_what_the_graphs_have(exported: Path) -> None:
    bundle = Bundle.open(exported)
    for graph in find_graphs(bundle, "t"):
        wanted = ports_by_format(bundle, graph.entry.role, graph.entry.precision_found)
        assert (graph.inputs, graph.outputs) == wanted


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_plans_become_models_of_tensorrt(precision: str, bundle: Path) -> None:
    # nothing reads a plan without a GPU: what is looked at is the manifest's word of it
    manifest = json.loads((bundle / "manifest.json").read_text())
    for role in ("support", "query"):
        plan = bundle / f"{role}.trt.{precision}.plan"
        plan.write_bytes(b"plan of " + role.encode())
        manifest["files"].append(
            {
                "name": plan.name,
                "role": role,
                "engine": "trt",
                "precision_asked": precision,
                "precision_found": precision,
                "size": plan.stat().st_size,
                "sha256": sha256(plan),
                "details": {"max_batch": 2},
            }
        )
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    written = write_repository(bundle, bundle.parent / "models", Options(name="t"), graphs=True)
    ending = "_trt" if precision == "fp32" else f"_trt_{precision}"
    models = {model.name: model for model in written if model.kind == "tensorrt_plan"}
    assert list(models) == [f"t_support{ending}", f"t_query{ending}"]
    for name, model in models.items():
        role = name.split("_")[1]
        assert (model.folder / "1" / "model.plan").read_bytes() == b"plan of " + role.encode()
        text = (model.folder / "config.pbtxt").read_text()
        assert 'platform: "tensorrt_plan"' in text
        assert "kind: KIND_GPU" in text
        # no more at once than the plan was built for
        assert f"max_batch_size: {2 if role == 'support' else 0}" in text
        assert ("TYPE_FP16" in text) == (precision == "fp16" and role == "query")


def test_a_graph_for_another_runtime_is_left_out(exported_bf16: Path, tmp_path: Path) -> None:
    opened = Bundle.open(exported_bf16)
    if any(e.precision_found == "fp32" for e in opened.manifest.files):
        assert all("bf16" not in graph.name for graph in find_graphs(opened, "t"))
        return
    with pytest.raises(InputError, match="has no graphs that Triton runs"):
        write_repository(exported_bf16, tmp_path / "models", graphs=True)
    assert not (tmp_path / "models").exists()


def test_the_real_server_has_nothing_against_the_configurations(
    repository: Path, start: Callable[..., Any], client: Callable[..., Any]
) -> None:
    """The wheel's server has no backend for ONNX, and says only that; what it checks before is right."""
    server = start(repository, "--model-control-mode=explicit", "--load-model=t")
    triton = client("grpc", server)
    for name in ("t_support", "t_query", "t_support_fp16", "t_query_fp16"):
        with pytest.raises(Exception, match="backend") as caught:
            triton.raw.load_model(name)
        assert "unable to find backend library for backend 'onnxruntime'" in str(caught.value).lower()
    broken = repository / "t_query" / "config.pbtxt"
    broken.write_text(broken.read_text().replace("TYPE_INT32", "TYPE_INT33"))
    with pytest.raises(Exception, match="t_query") as caught:
        triton.raw.load_model("t_query")
    assert "unable to find backend library" not in str(caught.value).lower()


def test_a_graphs_configuration_needs_no_file(exported: Path) -> None:
    graphs = find_graphs(Bundle.open(exported), "t")
    texts = [to_text(graph_config(graph, Options(instances=3, engine="onnx-cpu"))) for graph in graphs]
    assert all("count: 3" in text and "KIND_CPU" in text for text in texts)

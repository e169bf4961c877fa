"""Loading a bundle: which engine and why, the self-test, and files that were changed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import SELF_TEST, Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.segmenter import Segmenter


def rehash(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    content = json.loads((bundle / MANIFEST).read_text())
    data = (bundle / name).read_bytes()
    (entry,) = (e for e in content["files"] if e["name"] == name)
    entry["size"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(content))


def change_self_test(bundle: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(bundle / SELF_TEST)
    edit(tensors)
    save_file(tensors, bundle / SELF_TEST)
    rehash(bundle, SELF_TEST)


def flip(share: float) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        flat = tensors["labels"].reshape(-1)
        wrong = np.random.default_rng(0).permutation(flat.size)[: round(share * flat.size)]
        flat[wrong] = 1 - flat[wrong]

    return edit


def test_loading_says_which_engine_and_why(exported: Path) -> None:
    loaded = Segmenter.load(str(exported))
    assert loaded.reason.startswith(f"{loaded.engine.name} {loaded.engine.precision}")
    assert loaded.clone().reason == loaded.reason
    assert loaded.model == Bundle.open(exported).manifest.model


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("fp32", 0.01), ("fp16", 0.05)])
def test_an_engine_that_fails_the_self_test_is_refused(bundle: Path, precision: str, share: float) -> None:
    change_self_test(bundle, flip(share))
    with pytest.raises(
        EngineError, match=rf"onnx-cpu {precision} fails the bundle's self-test: .*do not use"
    ) as caught:
        Segmenter.load(bundle, "onnx-cpu", precision=precision)
    assert caught.value.exit_code == 3
    assert Segmenter.load(bundle, "onnx-cpu", precision=precision, self_test=False).engine.precision == precision


def test_half_precision_may_differ_in_a_few_pixels_of_the_self_test(bundle: Path) -> None:
    change_self_test(bundle, flip(0.01))
    assert Segmenter.load(bundle, "onnx-cpu", precision="fp16").engine.precision == "fp16"


@pytest.mark.parametrize("error", [5.0, np.nan])
def test_logits_that_are_not_those_of_the_self_test_are_refused(bundle: Path, error: float) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["logits"] = (tensors["logits"] + np.float32([0, error])[:, None, None]).astype(np.float32)

    change_self_test(bundle, edit)
    with pytest.raises((EngineError, InputError)):
        Segmenter.load(bundle, "onnx-cpu")


def test_a_graph_with_other_weights_fails_the_self_test(bundle: Path) -> None:
    # a file that is swapped together with its hash, or an engine that computes wrongly
    graph = onnx.load_model(bundle / "query.onnx")
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    graph.graph.node.append(onnx.helper.make_node("Neg", ["before"], [output.name]))
    (bundle / "query.onnx").write_bytes(graph.SerializeToString())
    rehash(bundle, "query.onnx")
    with pytest.raises(EngineError, match="fails the bundle's self-test"):
        Segmenter.load(bundle, "onnx-cpu")


def test_an_engine_that_gives_nan_is_an_engine_error(bundle: Path) -> None:
    graph = onnx.load_model(bundle / "query.onnx")
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    # the square root of minus one minus a square
    nodes = [("Mul", ["before", "before"], "square"), ("Neg", ["square"], "minus"), ("Sqrt", ["minus"], output.name)]
    graph.graph.node.extend(onnx.helper.make_node(op, inputs, [to]) for op, inputs, to in nodes)
    (bundle / "query.onnx").write_bytes(graph.SerializeToString())
    rehash(bundle, "query.onnx")
    with pytest.raises(EngineError, match="gave NaN or infinity"):
        Segmenter.load(bundle, "onnx-cpu")
    loaded = Segmenter.load(bundle, "onnx-cpu", self_test=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 30:80] = 1
    memory = loaded.encode_support([(image, mask)])
    with pytest.raises(EngineError, match="gave NaN or infinity"):
        loaded.segment(image, memory)


def test_a_graph_with_external_data_is_refused_even_with_a_matching_hash(bundle: Path) -> None:
    graph = onnx.load_model(bundle / "query.onnx")
    onnx.save(graph, bundle / "query.onnx", save_as_external_data=True, size_threshold=0, location="query.data")
    rehash(bundle, "query.onnx")
    with pytest.raises(InputError, match=r"query.data', which its manifest does not list"):
        Segmenter.load(bundle, "onnx-cpu")
    (bundle / "query.data").unlink()
    with pytest.raises(InputError, match=r"query.onnx keeps weights in external data files"):
        Segmenter.load(bundle, "onnx-cpu")


def test_a_missing_bundle_is_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist or is not a folder"):
        Segmenter.load(tmp_path / "none.ntre", "onx")


def test_unknown_engines_and_precisions_are_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'onnx-cpu'"):
        Segmenter.load(exported, "onnx_cpu")
    with pytest.raises(InputError, match="holds fp32, fp16"):
        Segmenter.load(exported, precision="bf16")

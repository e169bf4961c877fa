"""Exported files: opset, one file, valid, dynamic axes, the same numbers in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ntre_deploy.errors import InputError
from ntre_deploy.export.ntrenet import QueryGraph, SupportGraph
from ntre_deploy.export.onnx import check_onnx, found_precision, query_signature, support_signature, write_onnx
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.runtime.stacked import stack

D = 512


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> NTRENet:
    return load_checkpoint(tiny_checkpoint).model


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


@pytest.mark.parametrize(("b", "n", "k", "m"), [(1, 1, 1, 1), (1, 3, 1, 64), (2, 1, 5, 7), (3, 2, 2, 81)])
def test_batch_classes_shots_and_keys_are_dynamic(
    model: NTRENet, exported: Path, b: int, n: int, k: int, m: int
) -> None:
    keys = rand(n, k, D, m)
    supports = stack(rand(n, 16), keys / np.linalg.norm(keys, axis=2, keepdims=True))
    arrays = {"image": rand(b, 3, 65, 65), **supports._asdict()}
    (got,) = session(exported / "query.onnx").run(None, arrays)
    with torch.inference_mode():
        wanted = QueryGraph(model, 65)(*(torch.from_numpy(a) for a in arrays.values())).numpy()
    assert got.shape == (b, n, 2, 9, 9)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_support_graphs_batch_is_dynamic(model: NTRENet, exported: Path) -> None:
    image, mask = rand(3, 3, 65, 65), (rand(3, 1, 65, 65) > 0.5).astype(np.float32)
    prototype, keys = session(exported / "support.onnx").run(None, {"image": image, "mask": mask})
    with torch.inference_mode():
        wanted = SupportGraph(model, 65)(torch.from_numpy(image), torch.from_numpy(mask))
    np.testing.assert_allclose(prototype, wanted[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(keys, wanted[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 100])
def test_the_16_bit_file_is_finite_on_ordinary_and_extreme_images(exported: Path, factor: int) -> None:
    image, mask = factor * (rand(1, 3, 65, 65) - 0.5), np.ones((1, 1, 65, 65), np.float32)
    prototype, keys = session(exported / "support.fp16.onnx").run(None, {"image": image, "mask": mask})
    supports = stack(prototype, keys[None])
    arrays = {"image": image, **supports._replace(keys=supports.keys.astype(np.float16))._asdict()}
    (logits,) = session(exported / "query.fp16.onnx").run(None, arrays)
    assert all(np.isfinite(x).all() for x in (prototype, keys, logits))


def test_files_say_which_precision_they_hold(exported: Path) -> None:
    assert found_precision(exported / "query.onnx") == found_precision(exported / "support.onnx") == "fp32"
    assert found_precision(exported / "query.fp16.onnx") == found_precision(exported / "support.fp16.onnx") == "fp16"


@pytest.mark.parametrize("opset", [19, 23])
def test_another_opset_is_honoured(model: NTRENet, tmp_path: Path, opset: int) -> None:
    path = tmp_path / "support.onnx"
    write_onnx(SupportGraph(model, 65).eval(), support_signature(65), path, opset)
    assert {e.version for e in onnx.load(path).opset_import if e.domain == ""} == {opset}
    assert [p.name for p in tmp_path.iterdir()] == ["support.onnx"], "no external data beside it"


@pytest.mark.parametrize("opset", [13, 17, 24])
def test_opsets_that_the_exporter_does_not_honour_are_refused(model: NTRENet, tmp_path: Path, opset: int) -> None:
    with pytest.raises(InputError, match="18 to 23"):
        write_onnx(QueryGraph(model, 65), query_signature(65, 16, D), tmp_path / "q.onnx", opset)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_opset_or_an_invalid_one_does_not_pass_the_check(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="opset 19"):
        check_onnx(exported / "support.onnx", 19)
    broken = onnx.load(exported / "support.onnx")
    broken.graph.node[3].input[0] = "nowhere"
    onnx.save(broken, tmp_path / "broken.onnx")
    with pytest.raises(onnx.checker.ValidationError):
        check_onnx(tmp_path / "broken.onnx", 18)


def test_no_expanded_prototype_and_no_data_dependent_operator_remain(exported: Path) -> None:
    kinds = {node.op_type for node in onnx.load(exported / "query.onnx").graph.node}
    assert not kinds & {
        "Expand",
        "Tile",
        "If",
        "Loop",
        "NonZero",
        "ArgMax",
        "GatherND",
        "BatchNormalization",
        "Dropout",
    }

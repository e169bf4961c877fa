"""bf16 files in ONNX Runtime on a CPU: every result is rounded to bf16, and the graph is PyTorch's in bf16."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ntre_deploy.export.imitation import imitated
from ntre_deploy.export.onnx import found_precision
from ntre_deploy.export.torch_engines import BF16, FP32, TorchEngine
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.onnx import CPU, OnnxEngine, input_types, make_session
from ntre_deploy.runtime.stacked import stack


def test_the_files_are_bf16_with_fp32_islands_and_fp16_keys(exported_bf16: Path) -> None:
    for role in ("support", "query"):
        assert found_precision(exported_bf16 / f"{role}.bf16.onnx") == "bf16"
    model = onnx.load_model(exported_bf16 / "query.bf16.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [22]
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {
        "image": TensorProto.FLOAT,
        "prototypes": TensorProto.FLOAT,
        "keys": TensorProto.FLOAT16,
        "chunks": TensorProto.INT32,
        "logits": TensorProto.FLOAT,
    }
    weights = {t.name: t.data_type for t in model.graph.initializer}
    of = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert 0 < of.count(TensorProto.FLOAT) < of.count(TensorProto.BFLOAT16)


def test_every_result_is_rounded(exported_bf16: Path) -> None:
    content = (exported_bf16 / "query.bf16.onnx").read_bytes()
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content)).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    names = [n.output[0] for n in inferred.node if n.op_type == "Conv" and kinds[n.output[0]] == TensorProto.BFLOAT16]
    model = onnx.load_model_from_string(imitated(content))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = make_session(model.SerializeToString(), CPU, 1)
    types = input_types(session)
    rng = np.random.default_rng(0)
    keys = np.abs(rng.standard_normal((1, 1, 512, 40), dtype=np.float32))
    given = stack(rng.standard_normal((1, 16), dtype=np.float32), keys)._asdict()
    given["image"] = rng.standard_normal((1, 3, 65, 65), dtype=np.float32)
    found = session.run(names, {name: np.asarray(array, types[name]) for name, array in given.items()})
    assert len(names) > 30
    for array in found:
        assert array.any()
        assert not (array.view(np.uint32) & 0xFFFF).any()


def test_the_files_give_what_pytorch_gives_in_bf16(exported_bf16: Path, tiny_checkpoint: Path) -> None:
    contents = {role: imitated((exported_bf16 / f"{role}.bf16.onnx").read_bytes()) for role in ("support", "query")}
    ours = OnnxEngine("onnx-cpu-imitating", "bf16", contents["support"], contents["query"])
    model = load_checkpoint(tiny_checkpoint).model
    fp32, bf16 = (TorchEngine(model, 65, mode) for mode in (FP32, BF16))
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 3, 65, 65), dtype=np.float32)
    mask = (rng.random((2, 1, 65, 65)) < 0.4).astype(np.float32)
    (wanted, _), (torchs, _), (got, keys) = (engine.support(image, mask) for engine in (fp32, bf16, ours))

    def off(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).max() / np.abs(b).max())

    assert off(got, torchs) < 1.5 * off(torchs, wanted)
    assert 1e-4 < off(got, wanted) < 0.05, "no rounding at all, or more than that"
    given = stack([got[0]], [[keys[0]]])
    answers = [engine.query(image, given) for engine in (fp32, bf16, ours)]
    assert off(answers[2], answers[1]) < 0.3
    assert 1e-4 < off(answers[2], answers[0]) < 0.3


def test_the_manifest_says_that_it_was_imitated(exported_bf16: Path) -> None:
    manifest = Bundle.open(exported_bf16).manifest
    ran = {(entry["engine"], entry["precision"]) for entry in manifest.verification}
    assert ran == {("onnx-cpu-imitating", "bf16")}
    opsets = {(file.precision_found, file.details["opset"]) for file in manifest.files if file.engine == "onnx"}
    assert opsets == {("bf16", 22)}


def test_an_input_in_bf16_is_a_defect() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [4]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=10)
    with pytest.raises(RuntimeError, match="bf16, which NumPy does not have"):
        imitated(model.SerializeToString())

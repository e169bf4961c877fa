"""fp32 products as sums: the same results, no fp32 product left, and plans for Turing."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from ntre_deploy.plans.builder import build
from ntre_deploy.plans.options import TensorRtOptions, profiles
from ntre_deploy.plans.turing import without_fp32_products
from ntre_deploy.runtime.engines.onnx import OnnxEngine
from ntre_deploy.runtime.engines.tensorrt import api
from ntre_deploy.runtime.stacked import stack


def test_the_rewritten_graphs_give_the_same(exported: Path) -> None:
    contents = {role: (exported / f"{role}.fp16.onnx").read_bytes() for role in ("support", "query")}
    rewritten = {role: without_fp32_products(content) for role, content in contents.items()}
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 3, 65, 65), dtype=np.float32)
    mask = (rng.random((2, 1, 65, 65)) < 0.4).astype(np.float32)
    before, after = (OnnxEngine("onnx-cpu", "fp16", c["support"], c["query"], threads=1) for c in (contents, rewritten))
    for a, b in zip(before.support(image, mask), after.support(image, mask), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    keys = np.abs(rng.standard_normal((3, 2, 512, 9), dtype=np.float32))
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    given = stack(rng.standard_normal((3, 16), dtype=np.float32), keys)
    wanted = before.query(image, given)
    # another order of summing may decide a tied pixel of the DO mask otherwise
    assert np.median(np.abs(after.query(image, given) - wanted)) / np.abs(wanted).max() < 1e-3


@pytest.mark.parametrize("role", ["support", "query"])
def test_only_fp32_products_go(exported: Path, role: str) -> None:
    content = (exported / f"{role}.fp16.onnx").read_bytes()

    def products(content: bytes) -> dict[int, int]:
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
        onnx.checker.check_model(model)
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
        found = [kinds[node.output[0]] for node in model.graph.node if node.op_type == "MatMul"]
        return {kind: found.count(kind) for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)}

    before, after = products(content), products(without_fp32_products(content))
    assert before[onnx.TensorProto.FLOAT] > 0
    assert after == before | {onnx.TensorProto.FLOAT: 0}


@pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")
@pytest.mark.parametrize("role", ["support", "query"])
def test_they_build_for_turing(exported: Path, role: str) -> None:
    content = without_fp32_products((exported / f"{role}.fp16.onnx").read_bytes())
    options = TensorRtOptions()
    shapes = profiles("trt-rtx", role, 65, options, (16, 512), 81)
    assert build(api.load("trt-rtx"), content, shapes, ("7.5",), options).precision == "fp16"

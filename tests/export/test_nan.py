"""NaN anywhere on the way of a query must be seen in its logits: an overflow of 16 bits may not end as a decision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from ntre_deploy.runtime.stacked import stack

_KINDS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def _run(graph: Any, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    # so that a node stays what the exporter wrote
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.fixture
def feeds() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    keys = np.abs(rng.standard_normal((2, 1, 512, 7), dtype=np.float32))
    prototypes = rng.standard_normal((2, 16), dtype=np.float32)
    supports = stack(prototypes, keys / np.linalg.norm(keys, axis=2, keepdims=True))
    image = rng.standard_normal((1, 3, 65, 65), dtype=np.float32)
    return {"image": image, **supports._asdict(), "keys": supports.keys.astype(np.float16)}


def test_nan_in_any_island_and_in_any_convolution_reaches_the_logits(exported: Path, feeds: dict[str, Any]) -> None:
    model = onnx.load(exported / "query.fp16.onnx")
    assert np.isfinite(_run(model, feeds)).all()
    known = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*known.value_info, *known.output]}
    lost, tried = [], 0
    for number, node in enumerate(model.graph.node):
        name = node.output[0]
        kind = _KINDS.get(types.get(name, 0))
        island = kind is np.float32 and node.op_type != "Constant"
        if kind is None or not (island or node.op_type == "Conv"):
            continue
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(model)
        spoiled.graph.node[number].output[0] = "before"
        spoiled.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, kind), "nan"))
        spoiled.graph.node.insert(number + 1, helper.make_node("Add", ["before", "nan"], [name]))
        tried += 1
        if np.isfinite(_run(spoiled, feeds)).all():
            lost.append((node.op_type, node.name))
    assert tried > 80
    assert lost == []

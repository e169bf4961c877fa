"""fp32 matrix products as sums of products, for Turing GPUs in TensorRT for RTX.

Its compiler has no fp32 matrix product for compute capability 7.5, and the fp16 graph keeps some for its islands: the
pooling by masks and resizes of the prior.  They are small beside the rest, and the
compiler fuses products and sum into one kernel.
"""

import numpy as np

from ntre_deploy.errors import EngineError

CAPABILITY = "7.5"
_AXES = {"ntre_last": -1, "ntre_third": -3, "ntre_second": -2}


def without_fp32_products(content: bytes) -> bytes:
    """An ONNX file whose fp32 `MatMul` of [..., m, k] and [..., k, n] sum products [..., m, k, 1] * [..., 1, k, n].

    Products in fp16 stay as they are.

    Raises:
        EngineError: the package onnx, which the runtime does not need otherwise, is missing.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise EngineError(
            "Plans in fp16 for compute capability 7.5 need the package onnx (pip install onnx); leave 7.5 out of --sm, "
            "or take --engine trt on such a GPU."
        ) from error
    model = onnx.load_model_from_string(content)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or kinds.get(node.output[0]) != TensorProto.FLOAT:
            nodes.append(node)
            continue
        name, (a, b) = node.name, node.input
        nodes += [
            helper.make_node("Unsqueeze", [a, "ntre_last"], [f"{name}_a"], f"{name}_rows"),
            helper.make_node("Unsqueeze", [b, "ntre_third"], [f"{name}_b"], f"{name}_columns"),
            helper.make_node("Mul", [f"{name}_a", f"{name}_b"], [f"{name}_ab"], f"{name}_products"),
            helper.make_node("ReduceSum", [f"{name}_ab", "ntre_second"], [node.output[0]], f"{name}_sums", keepdims=0),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.array([v], np.int64), k) for k, v in _AXES.items())
    result: bytes = model.SerializeToString()
    return result

"""A bf16 ONNX file as one that ONNX Runtime runs on a CPU, where it has no bf16 convolution.

Every operator computes in fp32 and its result is rounded to bf16, as tensor cores do it, which add up in fp32.  So
what is verified is the file with its own weights, casts and islands; the sums of a GPU's kernels have other orders.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper

_FLOAT, _BF16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def imitated(content: bytes) -> bytes:
    """A bf16 ONNX file as fp32 operators with rounded results; names, inputs and outputs stay.

    Raises:
        RuntimeError: an input, an output or an inner graph is bf16, which no exported file has.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content), strict_mode=True)
    graph = model.graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    if any(kinds[v.name] == _BF16 for v in (*graph.input, *graph.output)):
        raise RuntimeError("An input or output is bf16, which NumPy does not have.")
    for tensor in graph.initializer:
        if tensor.data_type == _BF16:
            _widen(tensor)
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                raise RuntimeError(f"{node.name} has a graph inside.")
            if attribute.HasField("t") and attribute.t.data_type == _BF16:
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _BF16:
                attribute.i = _FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if kinds.get(name) == _BF16:
                node.output[index] = f"{name}_sum"
                nodes += [
                    helper.make_node("Cast", [f"{name}_sum"], [f"{name}_bf16"], f"{name}_round", to=_BF16),
                    helper.make_node("Cast", [f"{name}_bf16"], [name], f"{name}_widen", to=_FLOAT),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # they tell the old types
    result: bytes = model.SerializeToString()
    return result


def _widen(tensor: TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))

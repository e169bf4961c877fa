"""fp8 (E4M3) by post-training quantisation of the fp16 ONNX files, for GPUs from Ada on.

Convolutions are quantised: activations per tensor, with the largest magnitude that the calibration photos gave, weights
per output channel.  Everything else stays as the fp16 file has it, its fp32 islands too.  Which groups of
convolutions stay as well is found by the search of `quantise`.
"""

from collections.abc import Collection

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ntre_deploy.export.quantise import Inputs, Quantiser, groups
from ntre_deploy.runtime.engines.onnx import CPU, failed, input_types, make_session

# E4M3 without infinities
_LARGEST = 448.0
# the smallest fp16 with all its bits; a scale larger than the values need costs little, for E4M3 has its own exponents
_LEAST_SCALE = 2.0**-14
# kernels read 16 bytes at once; the image's three channels and depthwise convolutions gain nothing
_CHANNELS = 16

Float = NDArray[np.float32]


def fp8_quantiser() -> Quantiser:
    """A quantiser for `search`, which finds the ranges of a file once and not for each attempt.

    Its inputs are those of `calibration_inputs`: image [1, 3, H, W], and mask [1, 1, H, W] or stacked supports.
    """
    found: dict[bytes, dict[str, float]] = {}

    def run(content: bytes, inputs: Inputs, keep: Collection[str]) -> bytes:
        if content not in found:
            found[content] = ranges(content, inputs)
        return quantise_fp8(content, found[content], keep)

    return run


def ranges(content: bytes, inputs: Inputs) -> dict[str, float]:
    """The largest magnitude of every tensor that a convolution of `quantisable` reads, by name.

    Args:
        inputs: calibration inputs of this graph, in float32 or in its own types.

    Raises:
        EngineError: ONNX Runtime cannot run the file.
    """
    model = onnx.load_model_from_string(content)
    names = list(dict.fromkeys(node.input[0] for node in quantisable(model)))
    for name in names:
        model.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}_abs"], f"{name}_abs"),
                helper.make_node("Cast", [f"{name}_abs"], [f"{name}_wide"], f"{name}_wide", to=TensorProto.FLOAT),
                helper.make_node("ReduceMax", [f"{name}_wide"], [f"{name}_max"], f"{name}_max", keepdims=0),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info(f"{name}_max", TensorProto.FLOAT, []))
    session = make_session(model.SerializeToString(), CPU, None)
    types = input_types(session)
    most = np.zeros(len(names))
    for given in inputs:
        arrays = {name: np.asarray(array, types[name]) for name, array in given.items()}
        try:
            largest = session.run([f"{name}_max" for name in names], arrays)
        except Exception as error:
            raise failed(error) from error
        most = np.maximum(most, largest)
    return dict(zip(names, most.tolist(), strict=True))


def quantisable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions of an fp16 graph that fp8 is for: none of its fp32 islands, grouped or narrow ones."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.data_type != TensorProto.FLOAT16:
            continue
        grouped = any(a.name == "group" and a.i != 1 for a in node.attribute)
        if not grouped and all(size % _CHANNELS == 0 for size in weight.dims[:2]):
            found.append(node)
    return found


def quantise_fp8(content: bytes, most: dict[str, float], keep: Collection[str] = ()) -> bytes:
    """An fp16 ONNX file of opset 19 or later to a QDQ file in E4M3.

    Args:
        most: as `ranges` gives it.
        keep: groups (see `quantise.groups`) that stay in fp16.
    """
    model = onnx.load_model_from_string(content)
    kept = {name for group, members in groups(model).items() if group in keep for name in members}
    chosen = [node for node in quantisable(model) if node.name not in kept]
    if not chosen:
        return content
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # what stands before a convolution; several may read one tensor, and some share their weights
    before: dict[str, list[onnx.NodeProto]] = {}
    ready: set[str] = set()
    for node in chosen:
        x, w = node.input[:2]
        before[node.name] = []
        if x not in ready:
            scale = np.float16(max(most[x] / _LARGEST, _LEAST_SCALE))
            graph.initializer.extend(
                [numpy_helper.from_array(np.asarray(scale), f"{x}_scale"), _zeros(f"{x}_zero", [])]
            )
            names = [f"{x}_scale", f"{x}_zero"]
            before[node.name] += [
                helper.make_node("QuantizeLinear", [x, *names], [f"{x}_fp8"], f"{x}_quantise"),
                helper.make_node("DequantizeLinear", [f"{x}_fp8", *names], [f"{x}_dequantised"], f"{x}_dequantise"),
            ]
        if w not in ready:
            values = numpy_helper.to_array(weights[w]).astype(np.float32)
            scales, small = _rounded(values)
            graph.initializer.extend(
                [
                    numpy_helper.from_array(scales, f"{w}_scale"),
                    _zeros(f"{w}_zero", list(scales.shape)),
                    helper.make_tensor(f"{w}_fp8", TensorProto.FLOAT8E4M3FN, values.shape, small, raw=True),
                ]
            )
            given = [f"{w}_fp8", f"{w}_scale", f"{w}_zero"]
            before[node.name].append(
                helper.make_node("DequantizeLinear", given, [f"{w}_dequantised"], f"{w}_dequantise", axis=0)
            )
        ready |= {x, w}
        node.input[0], node.input[1] = f"{x}_dequantised", f"{w}_dequantised"
    nodes = [made for node in graph.node for made in (*before.get(node.name, ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    result: bytes = model.SerializeToString()
    return result


def _rounded(values: Float) -> tuple[NDArray[np.float16], bytes]:
    """Weights float32 [C, ...] as scales float16 [C] and E4M3 bytes."""
    most = np.abs(values).reshape(len(values), -1).max(1)
    scales = np.maximum(most / _LARGEST, _LEAST_SCALE).astype(np.float16)
    wide = scales.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    # a scale that was rounded down would let the largest value pass 448, which PyTorch makes NaN
    small = torch.from_numpy(np.clip(values / wide, -_LARGEST, _LARGEST)).to(torch.float8_e4m3fn)
    return scales, small.view(torch.uint8).numpy().tobytes()


def _zeros(name: str, shape: list[int]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, shape, bytes(int(np.prod(shape))), raw=True)

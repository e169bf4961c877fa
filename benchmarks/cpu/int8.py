"""Where ONNX Runtime's int8 query goes: time by operator, and its kernels alone against the machine's own product."""

import argparse
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
from common import Setting, show, write
from limits import product_rate
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops
from parts import Inputs, onnxruntime_kernels
from speed import query_file

from ntre_deploy.export.quantise import calibration_inputs
from ntre_deploy.runtime.segmenter import Segmenter

# the convolutions that most of ResNet-50's operations are in, with dilation instead of stride: input channels, output
# channels, side of the kernel, dilation
CONVOLUTIONS = {
    "layer 3, 1x1": (1024, 256, 1, 1),
    "layer 3, 3x3": (256, 256, 3, 2),
    "layer 4, 1x1": (2048, 512, 1, 1),
    "layer 4, 3x3": (512, 512, 3, 4),
    "head, 3x3": (256, 256, 3, 1),
}
_SIDE = 2048  # of the matrix product
_QUANTISED = {"QLinearConv", "MatMulInteger", "QLinearMatMul", "QGemm"}
_CONVOLVING = {"Conv", "FusedConv", "QLinearConv"}
_SCALE = 4 / 255  # of made activations; any other takes as long


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of this command alone."""


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Measure and write."""
    episode = setting.episodes(1).episodes[:1]
    segmenter = Segmenter.load(setting.bundle.folder, "onnx-cpu", precision="int8", threads=setting.threads)
    inputs = calibration_inputs(setting.dataset, episode, segmenter)["query"][0]
    content = query_file(setting.bundle, "int8")
    found: dict[str, Any] = {"threads": {}, "keys_shape": list(inputs["keys"].shape)}
    for threads in sorted({1, setting.threads}):
        operators = by_operator(content, inputs, threads, setting.rounds)
        alone = kernels_alone(threads, setting.rounds)
        found["threads"][str(threads)] = {"operators": operators, "alone_gop_s": alone}
        _tables(threads, operators, alone)
    write(args.out, setting, found)


def by_operator(content: bytes, inputs: Inputs, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Operators of a query graph as ONNX Runtime runs them, the dearest first.

    Returns:
        For each kind and type of its first input: number of nodes, milliseconds of a query (the median of the rounds),
        share of all, and of convolutions and products the operations in 10^9 and their rate in 10^9 a second.
    """
    weights = _weights(content)
    runs = onnxruntime_kernels(content, inputs, threads, rounds)
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(runs))
    count: dict[tuple[str, str], int] = defaultdict(int)
    operations: dict[tuple[str, str], float] = defaultdict(float)
    for number, kernels in enumerate(runs):
        for kernel in kernels:
            told = kernel["args"]
            key = (told["op_name"], next(iter(told["input_type_shape"][0])) if told["input_type_shape"] else "")
            spent[key][number] += kernel["dur"] / 1e3
            if number == 0:
                count[key] += 1
                operations[key] += _operations(kernel, weights)
    whole = sum(float(np.median(values)) for values in spent.values())
    rows = []
    for key, values in sorted(spent.items(), key=lambda item: -float(np.median(item[1]))):
        ms = float(np.median(values))
        gop = operations[key] / 1e9
        rows.append(
            {
                "operator": key[0],
                "type": key[1],
                "nodes": count[key],
                "ms": ms,
                "share": ms / whole,
                "gop": gop or None,
                "gop_s": gop / ms * 1e3 if gop and ms else None,
            }
        )
    return rows


def kernels_alone(threads: int, rounds: int) -> dict[str, dict[str, float | None]]:
    """10^9 operations a second of single int8 kernels on a 60 x 60 feature, in both engines by their own profiles.

    Engines take turns, so that other work on the machine meets both; the best of the rounds counts.
    """
    rates: dict[str, dict[str, float | None]] = {}
    machine = product_rate("int8", threads, _SIDE)
    product = _product_model()
    values = {"x": np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE), np.uint8)}
    rates[f"product of {_SIDE}"] = {
        "onnxruntime": 2 * _SIDE**3 / _onnxruntime_seconds(product, values, threads)() / 1e9,
        "openvino": machine and machine / 1e9,
    }
    for name, (channels, filters, side, dilation) in CONVOLUTIONS.items():
        rng = np.random.default_rng(0)
        weights = rng.integers(-127, 128, (filters, channels, side, side), np.int8)
        x = rng.integers(0, 256, (1, channels, 60, 60), np.uint8)
        ours = _onnxruntime_seconds(_convolution_model(weights, dilation), {"x": x}, threads)
        theirs = _openvino_seconds(weights, dilation, (x * np.float32(_SCALE)), threads)
        pairs = [(ours(), theirs()) for _ in range(rounds)]
        operations = 2 * weights.size * 60 * 60 / 1e9
        best = np.min(pairs, axis=0)
        rates[name] = {"onnxruntime": operations / best[0], "openvino": operations / best[1]}
    return rates


def _operations(kernel: dict[str, Any], weights: dict[str, list[int]]) -> float:
    """2 for each multiply-add of a convolution or a product; 0 for what else there is."""
    told = kernel["args"]
    if not told["output_type_shape"]:
        return 0.0
    (output,) = told["output_type_shape"][0].values()
    if told["op_name"] in _CONVOLVING:
        # packed weights are not among the shapes that the profile tells
        shape = weights[max((name for name in weights if kernel["name"].startswith(name)), key=len)]
        return 2.0 * float(np.prod(output)) * float(np.prod(shape[1:]))
    if "MatMul" in told["op_name"]:
        ((left,), *_) = (list(shape.values()) for shape in told["input_type_shape"])
        return 2.0 * float(np.prod(output)) * left[-1]
    return 0.0


def _weights(content: bytes) -> dict[str, list[int]]:
    """Shape of the weights of each convolution of a QDQ file, by its name."""
    graph = onnx.load_model_from_string(content).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    return {node.name: shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"}


def _convolution_model(weights: NDArray[np.int8], dilation: int) -> bytes:
    """One QLinearConv, uint8 activations and int8 weights per channel as the exported files have them."""
    filters, channels, side, _ = weights.shape
    constants = {
        "scale": np.float32(_SCALE),
        "zero": np.uint8(0),
        "weights": weights,
        "scales": np.full(filters, 0.01, np.float32),
        "zeros": np.zeros(filters, np.int8),
        "wide": np.float32(_SCALE * channels * side),
        "bias": np.zeros(filters, np.int32),
    }
    names = ["x", "scale", "zero", "weights", "scales", "zeros", "wide", "zero", "bias"]
    padding = [dilation * (side // 2)] * 4
    node = helper.make_node("QLinearConv", names, ["y"], dilations=[dilation] * 2, pads=padding)
    return _model(node, [1, channels, 60, 60], [1, filters, 60, 60], constants)


def _product_model() -> bytes:
    weights = np.random.default_rng(1).integers(-127, 128, (_SIDE, _SIDE), np.int8)
    constants = {
        "scale": np.float32(_SCALE),
        "zero": np.uint8(0),
        "weights": weights,
        "fine": np.float32(0.01),
        "signed": np.int8(0),
        "wide": np.float32(_SCALE * _SIDE),
    }
    names = ["x", "scale", "zero", "weights", "fine", "signed", "wide", "zero"]
    return _model(helper.make_node("QLinearMatMul", names, ["y"]), [_SIDE] * 2, [_SIDE] * 2, constants)


def _model(node: onnx.NodeProto, taken: list[int], given: list[int], constants: dict[str, Any]) -> bytes:
    graph = helper.make_graph(
        [node],
        "alone",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, taken)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, given)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def _onnxruntime_seconds(content: bytes, inputs: dict[str, Any], threads: int) -> Callable[[], float]:
    """A call that gives the least time of five of the only quantised kernel, without the changes of layout around."""

    def measure() -> float:
        runs = onnxruntime_kernels(content, inputs, threads, 5)
        return min(sum(k["dur"] for k in run if k["args"]["op_name"] in _QUANTISED) for run in runs) / 1e6

    return measure


def _openvino_seconds(
    weights: NDArray[np.int8], dilation: int, values: NDArray[np.float32], threads: int
) -> Callable[[], float]:
    """The same of OpenVINO's convolution."""
    x = ops.parameter(list(values.shape), np.float32)
    low, high = np.float32(0), np.float32(255 * _SCALE)
    around = np.float32(1.27)
    left = ops.fake_quantize(x, low, high, low, high, 256)
    right = ops.fake_quantize(ops.constant(weights * np.float32(0.01)), -around, around, -around, around, 255)
    padding = [dilation * (weights.shape[2] // 2)] * 2
    y = ops.convolution(left, right, [1, 1], padding, padding, [dilation] * 2)
    wide = np.float32(high * weights.shape[1] * weights.shape[2])
    model = openvino.Model([ops.fake_quantize(ops.relu(y), low, wide, low, wide, 256)], [x])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def measure() -> float:
        best = float("inf")
        for _ in range(6):
            request.infer([values])
            kernels = [k for k in request.get_profiling_info() if k.node_type == "Convolution"]
            if [kernel for kernel in kernels if not kernel.exec_type.lower().endswith(("_u8", "_i8"))]:
                raise RuntimeError(f"OpenVINO runs the convolution as {kernels[0].exec_type}, and not in int8.")
            best = min(best, sum(kernel.real_time.total_seconds() for kernel in kernels))
        return best

    return measure


def _tables(threads: int, operators: list[dict[str, Any]], alone: dict[str, dict[str, float | None]]) -> None:
    whole = sum(row["ms"] for row in operators)
    rows = [
        [
            f"{row['operator']} {row['type']}",
            str(row["nodes"]),
            f"{row['ms']:.1f}",
            f"{row['share']:.1%}",
            f"{row['gop']:.1f}" if row["gop"] else "",
            f"{row['gop_s']:.0f}" if row["gop_s"] else "",
        ]
        for row in operators
        if row["share"] >= 0.002
    ]
    title = f"ONNX Runtime {onnxruntime.__version__}, {threads} thread(s): {whole:.0f} ms in kernels"
    show(title, ["operator, type of its input", "nodes", "ms", "share", "GOP", "GOP/s"], rows)
    bound = alone[f"product of {_SIDE}"]["openvino"]
    lines = [
        [name, *(f"{rate:.0f}" if rate else "" for rate in pair.values())]
        + ([f"{pair['onnxruntime'] / bound:.0%}"] if bound and pair["onnxruntime"] else [""])
        for name, pair in alone.items()
    ]
    columns = ["int8 kernel alone, GOP/s", "ONNX Runtime", "OpenVINO", "of the machine's product"]
    show(f"{threads} thread(s)", columns, lines)

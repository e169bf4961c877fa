"""Deploy graphs to ONNX: one self-contained file each, with the opset that was asked for, checked."""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.export import Dim

from ntre_deploy.errors import InputError
from ntre_deploy.export.graph_cache import GraphCache
from ntre_deploy.export.graphs import QueryBase, SupportBase
from ntre_deploy.runtime.onnxfile import check_self_contained
from ntre_deploy.runtime.stacked import CHUNK

# the range that PyTorch's exporter honours; it accepts others and then writes something else
OPSETS = range(18, 24)
DEFAULT_OPSET = 18
# the first opset whose operators take a precision: convolutions bf16, (de)quantisation E4M3
LEAST_OPSETS = {"bf16": 22, "fp8": 19}
_NAMES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
    onnx.TensorProto.FLOAT8E4M3FN: "fp8",
}


@dataclass(frozen=True)
class Signature:
    """Names of a graph's inputs and outputs, example inputs, and its dynamic axes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any], ...]


def support_signature(input_size: int) -> Signature:
    """Image [B, 3, H, W], mask [B, 1, H, W] -> prototype [B, C], keys [B, D, h*w]."""
    batch = Dim("batch", min=1)
    return Signature(
        inputs=("image", "mask"),
        outputs=("prototype", "keys"),
        example=(torch.zeros(2, 3, input_size, input_size), torch.zeros(2, 1, input_size, input_size)),
        dynamic=({0: batch}, {0: batch}),
    )


def query_signature(
    input_size: int, prototype_channels: int, key_channels: int, dtype: torch.dtype = torch.float32
) -> Signature:
    """Image [B, 3, H, W], prototypes [N, C], keys [P, L, D], chunks [N, K, Q] -> logits [B, N, 2, h, w].

    The keys are in `dtype`; those of a bf16 graph in fp16, which NumPy has, and whose cosines have three bits more.
    """
    if dtype == torch.bfloat16:
        dtype = torch.float16
    batch, classes, shots = Dim("batch", min=1), Dim("classes", min=1), Dim("shots", min=1)
    pieces, most = Dim("chunks", min=1), Dim("chunks_of_a_shot", min=1)
    return Signature(
        inputs=("image", "prototypes", "keys", "chunks"),
        outputs=("logits",),
        # sizes other than 0 and 1, which the exporter would take as constants, and all different
        example=(
            torch.zeros(2, 3, input_size, input_size),
            torch.zeros(3, prototype_channels),
            torch.zeros(7, CHUNK, key_channels, dtype=dtype),
            torch.zeros(3, 4, 5, dtype=torch.int32),
        ),
        dynamic=({0: batch}, {0: classes}, {0: pieces}, {0: classes, 1: shots, 2: most}),
    )


def check_opset(opset: int) -> None:
    """Check that PyTorch's exporter honours an opset.

    Raises:
        InputError: it does not.
    """
    if opset not in OPSETS:
        span = f"{OPSETS.start} to {OPSETS.stop - 1}"
        raise InputError(f"Opset {opset} is not supported; choose {span}, which PyTorch's exporter honours.")


def write_onnx(graph: SupportBase | QueryBase, signature: Signature, path: Path, opset: int = DEFAULT_OPSET) -> None:
    """Export a deploy graph and check the file.

    Raises:
        InputError: an opset outside `OPSETS`.
        RuntimeError: the exporter wrote another opset, external data or an invalid model (a defect, not bad input).
    """
    check_opset(opset)
    shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in signature.example]
    kept = GraphCache(graph, signature.inputs, signature.outputs, shapes, signature.dynamic, opset)
    taken = kept.take(path)
    if not taken:
        _trace(graph, signature, path, opset)
    check_onnx(path, opset)
    if not taken:
        kept.keep(path)


def _trace(graph: SupportBase | QueryBase, signature: Signature, path: Path, opset: int) -> None:
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            graph,
            signature.example,
            dynamo=True,
            opset_version=opset,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=signature.dynamic,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


def check_onnx(path: Path, opset: int) -> None:
    """Check opset, self-containedness and validity of an exported file.

    Raises:
        RuntimeError: one of them is not as asked.
    """
    content = path.read_bytes()
    check_self_contained(content, path.name)
    model = onnx.load_model_from_string(content)
    found = {entry.domain: entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if set(found.values()) != {opset}:
        raise RuntimeError(f"{path.name} was asked for in opset {opset} and came out as {found}.")
    onnx.checker.check_model(model, full_check=True)


def found_precision(path: Path) -> str:
    """Precision of most of the convolution and matrix weights of an ONNX file, such as `fp16`, or `int8` and `fp8`."""
    model = onnx.load(str(path), load_external_data=False)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in kinds:  # a quantised weight stands behind it
            kinds[node.output[0]], sizes[node.output[0]] = kinds[node.input[0]], sizes[node.input[0]]
    votes: Counter[Any] = Counter()
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            for name in node.input:
                if name in kinds:
                    votes[kinds[name]] += sizes[name]
    return _NAMES.get(votes.most_common(1)[0][0], "unknown") if votes else "unknown"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # the exporter reports its progress on stdout and in warnings that concern its own internals
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

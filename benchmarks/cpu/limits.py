"""The machine's limit: operations of the query graph, and the rate of the machine's own matrix products."""

import time
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch.utils.flop_counter import FlopCounterMode

from ntre_deploy.export.graphs import query_graph
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.runtime.engines.openvino import execution_types

# precision -> OpenVINO's name of it; int8 is bf16 or fp32 around quantised products
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# how its kernels of each end
_KERNELS = {"fp32": ("_f32",), "bf16": ("_bf16",), "int8": ("_u8", "_i8")}


def query_operations(model: FewShotNetwork, size: int, keys: tuple[int, ...], chunks: tuple[int, ...]) -> float:
    """Floating-point operations (2 a multiply-add) of one query with keys [P, L, D] and chunks [N, K, Q]."""
    graph = query_graph(model, size).to("meta")
    inputs = (
        torch.empty(1, 3, size, size, device="meta"),
        torch.empty(chunks[0], model.prototype_channels, device="meta"),
        torch.empty(keys, device="meta"),
        torch.empty(chunks, dtype=torch.int32, device="meta"),
    )
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph(*inputs)
    return float(counter.get_total_flops())


def product_rate(precision: str, threads: int, side: int = 2048, rounds: int = 9) -> float | None:
    """Operations a second of OpenVINO's matrix product of that side with constant weights, the best of the rounds.

    Returns:
        None where the product does not run in that precision here.
    """
    rng = np.random.default_rng(0)
    x = ops.parameter([side, side], np.float32)
    weights = rng.standard_normal((side, side)).astype(np.float32)
    left: Any = x
    right: Any = ops.constant(weights)
    if precision == "int8":
        low, high = np.float32(0), np.float32(4)
        left = ops.fake_quantize(x, low, high, low, high, 256)
        right = ops.fake_quantize(right, -high, high, -high, high, 255)
    model = openvino.Model([ops.matmul(left, right, False, True)], [x])
    options = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    kernels = [kernel for kinds in execution_types(compiled).values() for kernel in kinds]
    if not any("gemm" in kernel and kernel.endswith(_KERNELS[precision]) for kernel in kernels):
        return None
    request = compiled.create_infer_request()
    values = [np.abs(rng.standard_normal((side, side)).astype(np.float32))]
    best = float("inf")
    for _ in range(rounds + 2):
        start = time.perf_counter()
        request.infer(values, share_inputs=True, share_outputs=True)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best

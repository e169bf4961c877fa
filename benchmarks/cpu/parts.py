"""Which part of the query graph takes the time, from the engines' own profiles.

Parts: the backbone up to layer 3, layer 4, the prior (eq. 5), and the head with everything else.
"""

import ast
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from ntre_deploy.bench.latency import timed
from ntre_deploy.export.graphs import query_graph
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Inputs = Mapping[str, Float]

PARTS = ("backbone", "layer 4", "prior", "head")
_SCOPES = "pkg.torch.onnx.name_scopes"
# what ONNX Runtime appends to the name of a tensor whose layout it changed
_SUFFIXES = ("_kernel_time", "_nchwc", "_quant", "_token_0", "_fused")


def upper_modules(model: FewShotNetwork, size: int) -> set[str]:
    """Names (in the network) of the modules that compute layer 4."""
    found: set[str] = set()
    backbone = model.backbone
    hooks = [
        module.register_forward_hook(lambda *_, name=name: found.add(f"backbone.{name}"))  # type: ignore[misc]
        for name, module in backbone.named_modules()
        if name
    ]
    with torch.inference_mode():
        _, f3 = backbone.lower(torch.zeros(1, 3, size, size))
        found.clear()
        backbone.upper(f3)
    for hook in hooks:
        hook.remove()
    return found


def named_parts(content: bytes, upper: set[str]) -> dict[str, str]:
    """Part of every node of an exported query graph, by the names of the node and of its outputs.

    A node that belongs to no module, such as a ReLU, belongs where its first input comes from.
    """
    model = onnx.load_model_from_string(content)
    parts: dict[str, str] = {}
    for node in model.graph.node:
        told = {p.key: p.value for p in node.metadata_props}.get(_SCOPES, "[]")
        modules = [scope for scope in ast.literal_eval(told) if scope][:-1]  # the last one is the operator itself
        before = [parts[name] for name in node.input if name in parts]
        if any(module in upper for module in modules):
            part = "layer 4"
        elif modules:
            part = "backbone" if modules[0].startswith("backbone.") else "prior" if modules[0] == "prior" else "head"
        else:
            part = before[0] if before else "head"
        for name in (node.name, *node.output):
            parts[name] = part
    return parts


def shares(spent: Iterable[tuple[list[str], float]], parts: Mapping[str, str]) -> dict[str, float]:
    """Share of each part of the time of kernels, given in their order with the names that each may be known by.

    What an engine put in by itself, such as a change of layout, belongs to the kernel before it.
    """
    totals = dict.fromkeys(PARTS, 0.0)
    part = PARTS[0]
    for names, value in spent:
        part = next((parts[name] for name in names if name in parts), part)
        totals[part] += value
    whole = sum(totals.values())
    return {name: value / whole for name, value in totals.items()}


def openvino_shares(
    content: bytes, hint: str, inputs: Inputs, threads: int, parts: Mapping[str, str], rounds: int
) -> dict[str, float]:
    """From OpenVINO's counters; `hint` is its inference precision."""
    core = openvino.Core()
    model = core.read_model(content, b"")
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    compiled = core.compile_model(model, "CPU", options)
    origins = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ops()
    }
    request = compiled.create_infer_request()
    request.infer(dict(inputs))
    spent: list[tuple[list[str], float]] = []
    for _ in range(rounds):
        request.infer(dict(inputs))
        for kernel in request.get_profiling_info():
            names = [kernel.node_name, *origins.get(kernel.node_name, [])]
            spent.append(([name.partition("/")[0] for name in names], kernel.real_time.total_seconds()))
    return shares(spent, parts)


def onnxruntime_shares(
    content: bytes, inputs: Inputs, threads: int, parts: Mapping[str, str], rounds: int
) -> dict[str, float]:
    """From ONNX Runtime's profile."""
    kernels = [kernel for run in onnxruntime_kernels(content, inputs, threads, rounds) for kernel in run]
    return shares((([*_stripped(kernel["name"])], float(kernel["dur"])) for kernel in kernels), parts)


def onnxruntime_kernels(content: bytes, inputs: Inputs, threads: int, rounds: int) -> list[list[dict[str, Any]]]:
    """Kernels of each of `rounds` runs from ONNX Runtime's profile: `name`, `dur` in microseconds, and `args`."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(rounds + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    each = len(kernels) // (rounds + 1)
    # the first run pays for allocations
    return [kernels[start : start + each] for start in range(each, len(kernels), each)]


def torch_shares(model: FewShotNetwork, size: int, inputs: Inputs, rounds: int) -> dict[str, float]:
    """From the times of the parts one after the other, in eager mode."""
    graph = query_graph(model, size)
    image = torch.from_numpy(inputs["image"])
    prototypes, keys, chunks = (torch.from_numpy(inputs[name]) for name in StackedSupports._fields)
    samples: dict[str, list[float]] = {name: [] for name in PARTS}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            (f2, f3), lower = timed(lambda: graph.backbone.lower(image))
            f4, upper = timed(lambda f3=f3: graph.backbone.upper(f3))  # type: ignore[misc]
            _, prior = timed(lambda f4=f4: graph.prior(f4, keys, chunks))  # type: ignore[misc]
            _, head = timed(lambda f=(f2, f3, f4): graph.head(image, *f, prototypes, keys, chunks))  # type: ignore[misc]
            for name, value in zip(PARTS, (lower, upper, prior, head - prior), strict=True):
                samples[name].append(value)
    medians = {name: float(np.median(values[1:])) for name, values in samples.items()}
    return {name: value / sum(medians.values()) for name, value in medians.items()}


def _stripped(name: str) -> Iterable[str]:
    """A kernel's name, and that without what optimisations appended to it."""
    shorter = True
    while shorter:
        shorter = False
        for suffix in _SUFFIXES:
            if name.endswith(suffix):
                name, shorter = name.removesuffix(suffix), True
                yield name
    for prefix in ("fused ", "reorder_"):
        yield name.removeprefix(prefix)

"""Compare each kernel with what PyTorch does by itself, eager and compiled, on a GPU.

    python benchmarks/kernels --out benchmarks/results/kernels_DEVICE.json

All sides run as CUDA graphs of many repetitions, so that the launches of Python do not count, and take turns (A B C, A
B C).  The time is of the device, by CUDA events; inputs stay in the cache where they fit, for all sides alike.  A
kernel whose result disagrees is an error (exit code 1).  Without a GPU the exit code is 3.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, all_cases

from ntre_deploy.errors import EngineError, GateError, NtreError
from ntre_deploy.files import atomic_file, check_folder
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.cuda import open_device

# elements that may differ: labels where two margins are equal but for rounding
DISAGREEMENT = 1e-3
REPEATS = 20


def graph_of(work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """`work`, warmed up and captured REPEATS times on the current device."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(REPEATS):
            work()
    return graph


def microseconds(graph: torch.cuda.CUDAGraph) -> float:
    """Device time of one repetition."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * start.elapsed_time(end) / REPEATS


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times of one case, in microseconds.

    Raises:
        GateError: the kernel disagrees with PyTorch.
    """
    case.kernel(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    disagreement = case.disagreement()
    if disagreement > DISAGREEMENT:
        raise GateError(f"{case.name} {case.sizes}: {disagreement:.2%} of the elements differ from PyTorch.")
    compiled = torch.compile(case.baseline, mode="max-autotune-no-cudagraphs")
    graphs = {
        "kernel": graph_of(lambda: case.kernel(torch.cuda.current_stream().cuda_stream)),
        "eager": graph_of(case.baseline),
        "compiled": graph_of(compiled),
    }
    for graph in graphs.values():
        microseconds(graph)
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(microseconds(graph))
    summary = {name: {f"p{q}": float(np.percentile(t, q)) for q in (10, 50, 90)} for name, t in times.items()}
    best = min(summary[name]["p50"] for name in ("eager", "compiled"))
    return {
        "kernel": case.name,
        "sizes": case.sizes,
        "microseconds": summary,
        "speedup": best / summary["kernel"]["p50"],
        "disagreement": disagreement,
    }


def run(rounds: int) -> dict[str, Any]:
    """All cases.

    Raises:
        EngineError: no CUDA device, or a PyTorch without CUDA.
        GateError: a kernel disagrees with PyTorch.
    """
    if not torch.cuda.is_available():
        raise EngineError("These comparisons need a CUDA device and a PyTorch built for it; there is none here.")
    torch.cuda.init()
    # the primary context, which is PyTorch's too and current since its start; graphs need cuda-python
    device = open_device("cuda-python", torch.cuda.current_device())
    kernels = Kernels(device, device.compute_capability)
    results = []
    for case in all_cases(kernels, "cuda"):
        results.append(measure(case, rounds))
        print(f"{case.name:8} {results[-1]['speedup']:6.2f} x  {case.sizes}", file=sys.stderr)
    return {
        "device": device.name,
        "compute_capability": device.compute_capability,
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()},
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "rounds": rounds,
        "repeats": REPEATS,
        "results": results,
    }


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python benchmarks/kernels", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--rounds", type=int, default=50, help="measurements of each side (default: 50)")
    arguments = parser.parse_args()
    try:
        if arguments.rounds < 1:
            parser.error("--rounds is 1 or more")
        check_folder(arguments.out.parent)
        report = run(arguments.rounds)
        with atomic_file(arguments.out) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")
    except NtreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Samples of time and what is told of them; no sample is ever dropped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PARTS = ("pre", "compute", "post")


@dataclass
class Samples:
    """Milliseconds of each part of every query, and of the whole."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PARTS, "total")})

    def add(self, *parts: float) -> None:
        """Note one query: milliseconds of `PARTS`, in that order."""
        for name, value in zip(PARTS, parts, strict=True):
            self.parts[name].append(value)
        self.parts["total"].append(sum(parts))

    def summary(self) -> dict[str, dict[str, float]]:
        """n, min, p50, p90, p95, p99, max, mean and CoV (standard deviation / mean) of every part."""
        return {name: summarise(values) for name, values in self.parts.items() if values}


def summarise(values: list[float]) -> dict[str, float]:
    """Statistics of one list of milliseconds; percentiles interpolate linearly."""
    array = np.asarray(values, np.float64)
    p50, p90, p95, p99 = np.percentile(array, (50, 90, 95, 99))
    mean = float(array.mean())
    return {
        "n": len(values),
        "min": float(array.min()),
        "p50": float(p50),
        "p90": float(p90),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(array.max()),
        "mean": mean,
        "cov": float(array.std()) / mean if mean else 0.0,
    }


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The call's result and its wall-clock milliseconds."""
    start = time.perf_counter_ns()
    result = call()
    return result, (time.perf_counter_ns() - start) / 1e6


def warm_up(call: Callable[[], object], seconds: float = 0.2, least: int = 2) -> None:
    """Repeat `call` for that time and at least that often, so that allocations and clocks have settled."""
    end = time.perf_counter() + seconds
    count = 0
    while count < least or time.perf_counter() < end:
        call()
        count += 1

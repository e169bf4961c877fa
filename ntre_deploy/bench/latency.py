"""Samples of time and what is told of them; no sample is ever dropped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PARTS = ("pre", "compute", "post")
# of engines with memory of their own; they lie around `compute`
TRANSFERS = ("h2d", "d2h")
# seconds
WARM_UP = 0.2
# every part that a report may hold, in the order in which a query goes through them
ORDER = ("pre", "h2d", "compute", "d2h", "post")


@dataclass
class Samples:
    """Milliseconds of each part of every query, and of the whole."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*PARTS, "total")})
    seconds: float = 0.0

    def add(self, *parts: float, transfers: tuple[float, float] | None = None) -> None:
        """Note one query.

        Args:
            parts: milliseconds of `PARTS`, in that order.
            transfers: how many of the milliseconds of `compute` went into `TRANSFERS`; they get parts of their own.
        """
        whole = sum(parts)
        split = dict(zip(PARTS, parts, strict=True))
        if transfers is not None:
            split |= dict(zip(TRANSFERS, transfers, strict=True))
            split["compute"] -= sum(transfers)
        for name, value in (split | {"total": whole}).items():
            self.parts.setdefault(name, []).append(value)
        self.seconds += whole / 1e3

    def summary(self) -> dict[str, dict[str, float]]:
        """n, min, p50, p90, p95, p99, max, mean and CoV (standard deviation / mean) of every part."""
        return {name: summarise(self.parts[name]) for name in (*ORDER, "total") if self.parts.get(name)}


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


def drift(values: list[float]) -> float:
    """Median of the last third over that of the first: above 1 where a system became slower as the run went on."""
    third = max(1, len(values) // 3)
    return float(np.median(values[-third:])) / max(float(np.median(values[:third])), 1e-9)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The call's result and its wall-clock milliseconds."""
    start = time.perf_counter_ns()
    result = call()
    return result, (time.perf_counter_ns() - start) / 1e6


def warm_up(call: Callable[[], object], seconds: float = WARM_UP, least: int = 2) -> None:
    """Repeat `call` for that time and at least that often, so that allocations and clocks have settled."""
    end = time.perf_counter() + seconds
    count = 0
    while count < least or time.perf_counter() < end:
        call()
        count += 1

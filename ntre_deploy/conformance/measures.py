"""How far what a runtime gives is from what it should: 0 where it is equal, None where it cannot be compared."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Measure = float | None

_SMALLEST = 1e-6
# grey levels by which float32 may miss a level that is the same
_SAME_LEVEL = 0.01


def largest(found: Array, expected: Array) -> Measure:
    """max |a - b| of two arrays of any shape [...]; None for another shape or type."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return None
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))


def relative(found: Array, expected: Array) -> Measure:
    """max |a - b| / max |b| of two arrays of any shape [...]."""
    off = largest(found, expected)
    return None if off is None else off / max(float(np.abs(expected).max(initial=0.0)), _SMALLEST)


def share(found: Array, expected: Array) -> Measure:
    """The share of elements that differ, of two arrays of any shape [...]."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return None
    return float((found != expected).mean()) if expected.size else 0.0


def levels(found: Array, expected: Array, std: tuple[float, float, float]) -> tuple[Measure, Measure]:
    """Two network inputs [3, S, S]: the largest difference in grey levels, and the share of elements that differ."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return None, None
    off = np.abs(found.astype(np.float64) - expected) * np.array(std)[:, None, None]
    # written so that NaN differs
    return float(off.max()), float((~(off <= _SAME_LEVEL)).mean())


def flag(holds: bool) -> Measure:
    """0 where something holds, else 1."""
    return 0.0 if holds else 1.0


def worst(measures: Iterable[Measure]) -> Measure:
    """The largest of some measures; None where one of them is, and NaN where one of them is."""
    found = list(measures)
    if any(one is None for one in found):
        return None
    return float(np.max(np.array(found, np.float64), initial=0.0))

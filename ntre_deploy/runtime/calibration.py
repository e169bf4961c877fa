"""What makes the margins of several classes comparable: an offset and a scale for each, from the supports alone.

A class's logits say whether a pixel is the class or not, each class by a measure of its own, and the largest margin
wins a pixel: a class that answers to anything that stands out takes the pixels of the others, and of the background.
The supports tell.  Where the annotated targets of the other classes lie, a class should give no margin; half of what it
gives there on average, if it is positive, is subtracted from its margins, and a twentieth of what it gives on its own
targets, below which an answer is no answer.  No offset is negative, so that no class gains pixels that it would not
have alone.  With two shots or more, a shot is looked at with a memory of the others; with one, with the memory that it
made itself, which flatters all classes alike.  No pixel outside the targets is used: what is there is not known.

The two shares were chosen on photos and on rendered scenes (docs/embed.md has the figures).  Scales are applied, and
kept in memories, but `fit` leaves them at 1: dividing by what a class gives on its own targets was worse on the scenes,
where one shot says too little about it, and no better on the photos.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Double = NDArray[np.float64]

# shares of the mean margins on the targets of the others and on the own ones
_OTHERS, _OWN = 0.5, 0.05


class Calibration(NamedTuple):
    """A class's margin m becomes (m - offset) * scale; the scale is above 0."""

    offset: float = 0.0
    scale: float = 1.0


NEUTRAL = Calibration()


def calibrated(logits: Float, calibrations: Sequence[Calibration]) -> Float:
    """Logits [N, 2, h, w] whose margins (channel 1 minus channel 0) are calibrated; the same array if all are neutral.

    The way to a label map is linear and keeps constants, so that offsets may be subtracted before it.
    """
    if all(c == NEUTRAL for c in calibrations):
        return logits
    offsets = np.array([c.offset for c in calibrations], np.float32)
    scales = np.array([c.scale for c in calibrations], np.float32)
    out = logits * scales[:, None, None, None]
    out[:, 1] -= (offsets * scales)[:, None, None]
    return out


def response(logits: Float, target: Float) -> Double:
    """Mean margin of each class over a target.

    Args:
        logits: [N, 2, h, w] of a support image.
        target: [S, S] of 0 and 1, the support's mask at the network's resolution.

    Returns:
        float64 [N]; NaN where nothing of the target is left.
    """
    margins = (logits[:, 1] - logits[:, 0]).astype(np.float64)
    weights = cv2.resize(target, (logits.shape[3], logits.shape[2]), interpolation=cv2.INTER_AREA).astype(np.float64)
    total = weights.sum()
    mean: Double = (margins * weights).sum(axis=(1, 2)) / total if total > 0 else np.full(len(logits), np.nan)
    return mean


def responses(targets: Sequence[Sequence[Float]], logits: Callable[[int, int], Float]) -> Double:
    """Mean margin of each class over the targets of each class.

    Args:
        targets: for each class the masks [S, S] of its supports.
        logits: (class d, its shot k) -> logits [N, 2, h, w] of that support image, where class d is encoded without
            shot k if it has others.

    Returns:
        float64 [N, N]: row c, column d is the mean margin of class c over the targets of d; NaN where there are none.
    """
    table = np.full((len(targets), len(targets)), np.nan)
    for d, own in enumerate(targets):
        found = np.array([response(logits(d, k), target) for k, target in enumerate(own)])
        seen = np.isfinite(found).all(axis=1)
        if seen.any():
            table[:, d] = found[seen].mean(axis=0)
    return table


def fit(table: Double) -> list[Calibration]:
    """Calibration of each class, from the result of `responses`; all neutral with fewer than two classes."""
    classes = len(table)
    if classes < 2:
        return [NEUTRAL] * classes
    seen = np.isfinite(table)
    own = np.where(seen.diagonal(), table.diagonal(), 0.0)
    others = seen & ~np.eye(classes, dtype=bool)
    mean = np.where(others, table, 0.0).sum(axis=1) / np.maximum(others.sum(axis=1), 1)
    offsets = _OTHERS * np.maximum(mean, 0) + _OWN * np.maximum(own, 0)
    return [Calibration(float(offset)) for offset in offsets]

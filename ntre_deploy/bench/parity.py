"""How sure a difference in accuracy is: a paired bootstrap over episodes.

Episodes are drawn with replacement from all of them (Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 6), the same draws for every system, so that what makes an episode hard cancels out of a difference.  Unlike
`ntre eval`, the draw is not made inside each class: a bench often has one episode of a class, which would then have
no spread.  In each resample, mIoU is the mean over the classes that occur in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.training.evaluator import LEVEL, RESAMPLES, Interval

Float = NDArray[np.float64]
Counts = Sequence[tuple[int, int, int, int, int]]

SEED = 0
# resamples that are held at once: keeps the memory of thousands of episodes to some tens of MB
_AT_ONCE = 250


@dataclass(frozen=True)
class Drawn:
    """mIoU and FB-IoU of each resample, float64 [R]."""

    miou: Float
    fb_iou: Float


def draw(counts: Counts, resamples: int = RESAMPLES, seed: int = SEED, ways: int = 1) -> Drawn:
    """Metrics of `resamples` draws; the same episodes and seed give the same draws.

    Args:
        ways: rows that an episode has, one after the other; they are drawn together.
        counts: class, true positive, false positive, false negative and true negative pixels of each episode.
    """
    table = np.asarray(counts, np.int64)
    classes, pixels = table[:, 0], table[:, 1:].astype(np.float64)
    count = len(table) // ways
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    miou, fb_iou = [], []
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        times = np.repeat(times, ways, axis=1)
        sums, present = np.zeros(size), np.zeros(size)
        for c in np.unique(classes):
            own = classes == c
            there = times[:, own].sum(axis=1) > 0
            tp, fp, fn, _ = (times[:, own] @ pixels[own]).T
            sums += np.where(there, _ratio(tp, tp + fp + fn), 0)
            present += there
        miou.append(sums / present)
        tp, fp, fn, tn = (times @ pixels).T
        fb_iou.append((_ratio(tp, tp + fp + fn) + _ratio(tn, tn + fp + fn)) / 2)
    return Drawn(np.concatenate(miou), np.concatenate(fb_iou))


def interval(values: Float, level: float = LEVEL) -> Interval:
    """Percentile interval of resampled values, float64 [R]."""
    tail = 50 * (1 - level)
    low, high = np.percentile(values, (tail, 100 - tail))
    return Interval(float(low), float(high))


def _ratio(part: Float, whole: Float) -> Float:
    # as in `Confusion`: no union is a perfect one
    ratio: Float = np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
    return ratio

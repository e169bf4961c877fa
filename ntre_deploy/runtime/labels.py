"""Post-processing, once for training, export, runtime and bench: logits at feature resolution to labels of an image.

The way back is composed of the same two maps as the way in (`letterbox.py`), so no rounding to a stride is left in
between.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.letterbox import Letterbox

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# label 0 is background, and labels are uint8
MAX_CLASSES = 255
# multiply-adds of a product that BLAS does on the calling thread alone: its other threads would have to wait for those
# of an engine, which spin for a while after their work (67 ms in place of 1.5 with ONNX Runtime on two cores)
_ONE_THREAD = 1 << 18
# n rows of a map touch n * features / length + this many features at most
_EDGE_TAPS = 4


@lru_cache(maxsize=64)
def linear_map(n_out: int, n_in: int) -> Float:
    """Bilinear resize with aligned corners along one axis, as a matrix [n_out, n_in]."""
    positions = np.linspace(0, n_in - 1, n_out) if n_out > 1 else np.zeros(1)
    matrix = _taps(positions, n_in)
    matrix.setflags(write=False)  # the cache hands it out again
    return matrix


@lru_cache(maxsize=16)
def back_map(length: int, inner: int, size: int, features: int) -> Float:
    """One axis of the way back as a matrix [length, features].

    Features are resized to the input's `size` with aligned corners, the first `inner` pixels of that to the
    original `length` with pixel centres aligned: the composition of the two is one matrix.
    """
    positions = (np.arange(length) + 0.5) * (inner / length) - 0.5
    to_original = _taps(np.clip(positions, 0, inner - 1), inner)
    matrix = np.ascontiguousarray(to_original @ linear_map(size, features)[:inner])
    matrix.setflags(write=False)  # the cache hands it out again
    return matrix


class _Band(NamedTuple):
    """Some rows of a `back_map` without the columns that are zero in all of them."""

    pixels: slice
    features: slice
    matrix: Float


@lru_cache(maxsize=16)
def _bands(length: int, inner: int, size: int, features: int, width: int) -> tuple[_Band, ...]:
    """A `back_map` cut into rows that go together in one small product with [features, width]."""
    matrix = back_map(length, inner, size, features)
    # the largest n with n * (n * slope + _EDGE_TAPS) * width multiply-adds within the limit
    slope, limit = features / length, _ONE_THREAD / width
    step = max(1, int((math.sqrt(_EDGE_TAPS**2 + 4 * slope * limit) - _EDGE_TAPS) / (2 * slope)))
    bands = []
    for start in range(0, length, step):
        part = matrix[start : start + step]
        used = np.flatnonzero(part.any(axis=0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(slice(start, start + len(part)), near, np.ascontiguousarray(part[:, near])))
    return tuple(bands)


def _taps(positions: NDArray[np.float64], n_in: int) -> Float:
    low = np.clip(np.floor(positions).astype(np.int64), 0, max(n_in - 2, 0))
    high = np.minimum(low + 1, n_in - 1)
    share = (positions - low).astype(np.float32)
    matrix = np.zeros((len(positions), n_in), np.float32)
    rows = np.arange(len(positions))
    matrix[rows, low] += 1 - share
    matrix[rows, high] += share
    return matrix


def label_map(logits: Float, box: Letterbox) -> Pixels:
    """Logits at feature resolution to labels at the image's own size, in one pass.

    Args:
        logits: [N, 2, h, w]; channel 1 is the class, channel 0 the rest.

    Returns:
        uint8 [H, W]: 0 background, n the class of the n-th pair of logits (the largest margin wins).

    Raises:
        InputError: more classes than labels.
    """
    labels = np.empty((box.height, box.width), np.uint8)
    across, down = _across(logits, box)
    if len(logits) == 1:
        for band in down:
            np.greater(band.matrix @ across[0, band.features], 0, out=labels[band.pixels].view(np.bool_))
        return labels
    numbers = np.arange(1, len(logits) + 1, dtype=np.uint8)
    winners = _winners(across, numbers)
    for band in down:
        part, rows = labels[band.pixels], winners[band.features]
        part[...] = rows[0]
        # a margin is a mean of the band's features: who wins in all of them wins in between, and most columns are such
        columns = np.flatnonzero((rows[1:] != rows[0]).any(axis=0))
        if len(columns):
            near = across[:, band.features].take(columns, axis=2)
            upper, lower = near.max(axis=1), near.min(axis=1)
            # nor can one win that stays below zero or below another; NaN is neither
            able = ~((upper <= 0) | (upper < lower.max(axis=0))).all(axis=1)
            part[:, columns] = _winners(band.matrix @ near[able], numbers[able])
    return labels


def label_scores(logits: Float, box: Letterbox) -> tuple[Pixels, tuple[float, ...]]:
    """The result of `label_map`, and how clear each class is where it won.

    Returns:
        the labels, and for each class the mean over its pixels of its softmax probability among all margins and 0 for
        the background, in [0, 1]; 0 without pixels.

    Raises:
        InputError: more classes than labels.
    """
    labels = label_map(logits, box)
    return labels, class_scores(labels, logits, box)


def class_scores(labels: Pixels, logits: Float, box: Letterbox) -> tuple[float, ...]:
    """The scores of `label_scores` for the label map [H, W] of these logits [N, 2, h, w].

    Raises:
        InputError: more classes than labels.
    """
    bins = len(logits) + 1
    sums, counts = np.zeros(bins), np.zeros(bins, np.int64)
    across, down = _across(logits, box)
    for band in down:
        won = labels[band.pixels].ravel()
        # most pixels are background, whose probabilities nobody asks for
        # of booleans NumPy finds them several times as fast
        inside = np.flatnonzero(won != 0)
        if len(inside):
            values = band.matrix @ across[:, band.features]
            clear = _clear(values.reshape(len(logits), -1).take(inside, axis=1))
            own = won[inside]
            sums += np.bincount(own, clear, bins)
            counts += np.bincount(own, minlength=bins)
    return tuple(float(min(s / n, 1.0)) if n else 0.0 for s, n in zip(sums[1:], counts[1:], strict=True))


def probability_map(logits: Float, box: Letterbox) -> Float:
    """Logits [N, 2, h, w] to float32 [H, W]: the softmax probability of each pixel's label among all margins and 0.

    Raises:
        InputError: more classes than labels.
    """
    clear = np.empty((box.height, box.width), np.float32)
    for rows, probability in _probabilities(logits, box):
        clear[rows] = probability
    return clear


def margin_map(logits: Float, box: Letterbox) -> Float:
    """Logits [2, h, w] of one class to its margins at the image's own size, float32 [H, W]; above 0 is the class."""
    margins = np.empty((box.height, box.width), np.float32)
    across, down = _across(logits[None], box)
    for band in down:
        np.matmul(band.matrix, across[0, band.features], out=margins[band.pixels])
    return margins


def _probabilities(logits: Float, box: Letterbox) -> Iterator[tuple[slice, Float]]:
    """Rows of the label map with the probabilities of their labels, among the softmax of all margins and 0."""
    across, down = _across(logits, box)
    for band in down:
        values = band.matrix @ across[:, band.features]
        yield band.pixels, _clear(values)


def _clear(margins: Float) -> Float:
    """The largest softmax probability among margins [N, ...] and 0, the background's."""
    if len(margins) == 1:
        others = 1 + np.exp(-np.abs(margins[0]))
    else:
        top = np.maximum(margins.max(axis=0), 0)
        others = np.exp(margins - top).sum(axis=0) + np.exp(-top)
    clear: Float = 1 / others
    return clear


def _across(logits: Float, box: Letterbox) -> tuple[Float, tuple[_Band, ...]]:
    """Margins [N, h, W] with the image's own columns, and the bands of rows that are left to be made of them."""
    classes, _, h, w = logits.shape
    if not 1 <= classes <= MAX_CLASSES:
        raise InputError(f"{classes} classes were given; a label map holds 1 to {MAX_CLASSES}.")
    margin = logits[:, 1] - logits[:, 0]  # the maps are linear, so the difference may go through them alone
    margin = margin.reshape(classes * h, w)
    across = np.empty((classes * h, box.width), np.float32)
    for band in _bands(box.width, box.inner_width, box.size, w, classes * h):
        np.matmul(margin[:, band.features], band.matrix.T, out=across[:, band.pixels])
    down = _bands(box.height, box.inner_height, box.size, h, box.width)
    return across.reshape(classes, h, box.width), down


def _winners(margins: Float, numbers: Pixels) -> Pixels:
    """The number of the largest of margins [N, ...] where it is above zero, of the first of equals; 0 elsewhere."""
    labels = np.zeros(margins.shape[1:], np.uint8)
    best = np.zeros(margins.shape[1:], np.float32)
    for number, values in zip(numbers, margins, strict=True):
        labels[values > best] = number
        np.maximum(best, values, out=best)
    return labels

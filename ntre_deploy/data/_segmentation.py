"""Segmentations of files (polygons, run-length codes) into codes of pycocotools, checked before it sees them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.rle import encode_rle

# One segmentation as found in the file: COCO's polygons or run-length code, or one of the two classes below; checked
# when it is used, so that opening a large file stays quick
Segmentation = Any


@dataclass(frozen=True)
class RowRuns:
    """Runs along the rows of a box, the first of zeros, as CVAT writes masks; where a box lies outside, it is cut."""

    left: int
    top: int
    width: int
    height: int
    counts: Sequence[int]


@dataclass(frozen=True)
class Fractions:
    """A polygon in fractions of its image's width and height, float64 [n, 2], as YOLO writes it."""

    points: NDArray[np.float64]


def mask_api() -> Any:
    """The module `pycocotools.mask`.

    Raises:
        InputError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "Annotations of COCO, LabelMe, YOLO and CVAT need pycocotools: pip install 'ntre_deploy[coco]'."
        ) from error
    return mask


def encode(segmentation: Segmentation, height: int, width: int) -> Any:
    """One annotation's `segmentation` as a compressed code.

    pycocotools trusts its input (it allocates by coordinates), so all is checked before.

    Raises:
        ValueError: what is wrong with it.
    """
    api = mask_api()
    if isinstance(segmentation, RowRuns):
        return _encode_rows(segmentation, height, width)
    if isinstance(segmentation, Fractions):
        segmentation = [(segmentation.points * (width, height)).ravel().tolist()]
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise ValueError(f"size {segmentation.get('size')} where [{height}, {width}] is expected")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = _parse_counts(counts)
        if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("'counts' must be a string or a list of run lengths")
        if sum(counts) != height * width:
            raise ValueError(f"runs of {sum(counts)} pixels in an image of {height * width}")
        return api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it must be a list of polygons or a run-length code")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon must be a list [x1, y1, x2, y2, ...] of three points or more")
        if not all(type(x) in (int, float) and math.isfinite(x) for x in polygon):
            raise ValueError("a polygon must hold finite numbers")
        reach = 2 * max(height, width)
        if not all(-reach <= x <= reach for x in polygon):
            raise ValueError("a polygon lies far outside the image")
    return api.merge(api.frPyObjects([[float(x) for x in p] for p in segmentation], height, width))


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[list[float]]:
    """An ellipse as COCO's polygon of enough corners that none is seen; turned clockwise, as y points down."""
    turn = np.linspace(0, 2 * math.pi, int(min(max(16, 4 * max(abs(rx), abs(ry))), 4096)), endpoint=False)
    angle = math.radians(degrees)
    x, y = rx * np.cos(turn), ry * np.sin(turn)
    corners = np.stack([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], axis=1)
    return [(corners + np.array([cx, cy])).ravel().tolist()]


def row_runs(left: int, top: int, mask: NDArray[np.bool_]) -> RowRuns:
    """A mask [h, w] whose first pixel lies at (left, top)."""
    flat = np.concatenate([[False], mask.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return RowRuns(left, top, mask.shape[1], mask.shape[0], counts)


def _encode_rows(runs: RowRuns, height: int, width: int) -> Any:
    if min(runs.width, runs.height) < 1 or runs.width > width or runs.height > height:
        raise ValueError(f"a mask of {runs.width} x {runs.height} pixels in an image of {width} x {height}")
    if any(n < 0 for n in runs.counts) or sum(runs.counts) != runs.width * runs.height:
        raise ValueError(f"runs of {sum(runs.counts)} pixels in a mask of {runs.width} x {runs.height}")
    values = np.arange(len(runs.counts)) % 2
    inner = np.repeat(values.astype(np.uint8), runs.counts).reshape(runs.height, runs.width)
    whole = np.zeros((height, width), np.uint8)
    top, left = max(runs.top, 0), max(runs.left, 0)
    cut = inner[top - runs.top :, left - runs.left :]
    cut = cut[: max(height - top, 0), : max(width - left, 0)]
    whole[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    code = encode_rle(whole)
    return {"size": code["size"], "counts": code["counts"].encode("ascii")}


def _parse_counts(text: str) -> list[int]:
    """Run lengths of COCO's code: 5 bits per character, from the fourth on as differences to two before."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise ValueError("'counts' is no COCO run-length string")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("'counts' is cut off")
    return counts

"""COCO's compressed run-length code of a mask, written without pycocotools."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# the code's alphabet starts here: six bits a character, five of the number and one that says that more follow
_FIRST, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10


def encode_rle(mask: NDArray[np.generic]) -> dict[str, Any]:
    """The code of one mask, equal to that of `pycocotools.mask.encode`.

    Args:
        mask: [H, W], anything but 0 is inside.

    Returns:
        `{"size": [H, W], "counts": text}` (rleToString in cocoapi/common/maskApi.c).
    """
    flat = np.asarray(mask != 0).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    # the first run is of zeros
    runs = [0, *counts] if flat.size and flat[0] else counts
    # from the fourth on, each run is written as the difference to the one of its kind before
    steps = [run if i < 3 else run - runs[i - 2] for i, run in enumerate(runs)]
    return {"size": list(mask.shape), "counts": "".join(map(_characters, steps))}


def _characters(value: int) -> str:
    text = ""
    while True:
        part = value & (_MORE - 1)
        value >>= _BITS
        # what is left is the sign alone, and the sixth bit of this part already says it
        done = value == (-1 if part & _SIGN else 0)
        text += chr(_FIRST + (part if done else part | _MORE))
        if done:
            return text


def outline_box(mask: NDArray[np.generic]) -> list[int]:
    """[x, y, width, height] of the smallest box around a mask [H, W]; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def outline_boxes(labels: NDArray[np.uint8], classes: int) -> tuple[tuple[int, int, int, int], ...]:
    """`outline_box` of each class of a label map [H, W], as tuples; background has none."""
    there = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=classes + 1)).tolist())
    boxes = []
    for label in range(1, classes + 1):
        x, y, width, height = outline_box(labels == label) if label in there else (0, 0, 0, 0)
        boxes.append((x, y, width, height))
    return tuple(boxes)

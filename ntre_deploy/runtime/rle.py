"""COCO's compressed run-length code of a mask, written without pycocotools."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# the code's alphabet starts here: six bits a character, five of the number and one that says that more follow
_FIRST, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10
# classes for which looking at each alone costs less than counting all
_FEW = 4


def encode_rle(
    mask: NDArray[np.generic], size: tuple[int, int] | None = None, left: int = 0, top: int = 0
) -> dict[str, Any]:
    """The code of one mask, equal to that of `pycocotools.mask.encode`.

    Args:
        mask: [h, w], anything but 0 is inside.
        size: (H, W) of the image, where the mask is a part of it; None takes the mask's own.
        left, top: where the part lies.

    Returns:
        `{"size": [H, W], "counts": text}` (rleToString in cocoapi/common/maskApi.c).
    """
    height, width = size or (mask.shape[0], mask.shape[1])
    inside = np.asarray(mask != 0).view(np.uint8)
    # far faster than NumPy's transposed copy
    turned = cv2.transpose(inside) if inside.size else inside.T
    runs = run_lengths(turned, (width, height), top, left)
    if runs[-1] == 0 and len(runs) > 1:
        del runs[-1]
    # from the fourth on, each run is written as the difference to the one of its kind before
    steps = np.array(runs, np.int64)
    steps[3:] -= np.array(runs[1:-2], np.int64)
    return {"size": [height, width], "counts": _characters(steps)}


def run_lengths(mask: NDArray[np.generic], size: tuple[int, int], left: int = 0, top: int = 0) -> list[int]:
    """Lengths of runs of zeros and ones by turns, row after row; the first and the last are of zeros, and may be 0.

    Args:
        mask: [h, w], a part of an image of `size` (H, W) that is 0 elsewhere, `left` and `top` its first pixel.
    """
    rows, columns = mask.shape
    height, width = size
    framed = np.zeros((rows, columns + 2), np.int8)
    framed[:, 1:-1] = mask != 0
    steps = np.diff(framed, axis=1).ravel()
    # one more step than pixels in each row
    places = np.flatnonzero(steps)
    row, column = np.divmod(places, columns + 1)
    changes = (row + top) * width + column + left
    # a run that ends with its row and goes on in the next one
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([joined, joined + 1]))
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [height * width]])).tolist()
    return lengths


def _characters(values: NDArray[np.int64]) -> str:
    columns, open_still = [], np.ones(len(values), bool)
    while open_still.any():
        part = values & (_MORE - 1)
        values = values >> _BITS
        # what is left is the sign alone, and the sixth bit of this part already says it
        done = values == np.where(part & _SIGN, -1, 0)
        columns.append(np.where(open_still, _FIRST + np.where(done, part, part | _MORE), 0))
        open_still &= ~done
    text = np.stack(columns, axis=1).astype(np.uint8)
    encoded: bytes = text[text != 0].tobytes()
    return encoded.decode("ascii")


def outline_box(mask: NDArray[np.generic]) -> list[int]:
    """[x, y, width, height] of the smallest box around a mask [H, W]; zeros where it is empty."""
    return [int(value) for value in cv2.boundingRect(np.asarray(mask != 0).view(np.uint8))]


def outline_boxes(labels: NDArray[np.uint8], classes: int) -> tuple[tuple[int, int, int, int], ...]:
    """`outline_box` of each class of a label map [H, W], as tuples; background has none."""
    # of many classes most are absent, which one look at all pixels tells
    few = classes <= _FEW
    there = range(classes + 1) if few else set(np.flatnonzero(np.bincount(labels.ravel())).tolist())
    boxes = []
    for label in range(1, classes + 1):
        x, y, width, height = outline_box(labels == label) if label in there else (0, 0, 0, 0)
        boxes.append((x, y, width, height))
    return tuple(boxes)

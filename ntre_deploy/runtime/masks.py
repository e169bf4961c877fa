"""Masks of one class as arrays: 1 is the target, 0 the rest, `IGNORE` what counts for nothing."""

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError

Pixels = NDArray[np.uint8]

# as in PASCAL VOC: borders, and what nobody has marked
IGNORE = 255


def normalise_mask(values: NDArray[np.generic], what: str) -> Pixels:
    """Bring a mask array [H, W] of booleans, 0/1, 0/255 or 0/1/255 to uint8 with 0, 1 and 255 (ignore).

    Raises:
        InputError: `what` has another shape or other values.
    """
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"{what} has shape {list(values.shape)}; a mask is [H, W].")
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    found = np.unique(values)
    if not np.isin(found, (0, 1, 255)).all():
        odd = [v.item() for v in found if v not in (0, 1, 255)][:4]
        raise InputError(f"{what} holds the values {odd}; only 0, 1 (target) and 255 are allowed.")
    if 1 not in found:
        return np.asarray(values == 255, np.uint8)
    return values.astype(np.uint8)


def mask_iou(a: Pixels, b: Pixels) -> float:
    """IoU of two binary masks, uint8 [H, W] with 0 for the rest; 1 where both are empty."""
    union = int(np.count_nonzero((a > 0) | (b > 0)))
    return int(np.count_nonzero((a > 0) & (b > 0))) / union if union else 1.0

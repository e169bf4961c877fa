"""Masks of one class as arrays: 1 is the target, 0 the rest, `IGNORE` what counts for nothing."""

import warnings

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError, NtreWarning

Pixels = NDArray[np.uint8]

# as in PASCAL VOC: borders, and what nobody has marked
IGNORE = 255
# in place of a value: everything but the background
ANY = -1
# a black-and-white mask with soft edges: levels that still are black or white, and the share of pixels between them
_NEARLY, _MOST_SOFT = 16, 0.1
# from here on, a pixel belongs to what is drawn there
HALF = 128
_SHOWN = 4


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
    there = np.unique(values)
    if not _is_plain(there):
        odd = [v.item() for v in there if v not in (0, 1, IGNORE)][:_SHOWN]
        raise InputError(f"{what} holds the values {odd}; only 0, 1 (target) and 255 are allowed.")
    return _plain(values, there)


def _is_plain(there: NDArray[np.generic]) -> bool:
    return bool(np.isin(there, (0, 1, IGNORE)).all())


def _plain(values: NDArray[np.generic], there: NDArray[np.generic]) -> Pixels:
    """A mask of 0, 1 and 255, `there` in it; without a 1, it is black and white."""
    return values.astype(np.uint8) if 1 in there else np.asarray(values == IGNORE, np.uint8)


def check_target(mask: Pixels, image: Pixels, what: str, *, mask_file: str = "", image_file: str = "") -> None:
    """See that a mask [H, W] is its image's, [H, W, 3], and shows something.

    Args:
        what: names the support in messages, and the files what was read from some.

    Raises:
        InputError: it has another size, or no 1.
    """
    ours, its = (f" {name}" if name else "" for name in (mask_file, image_file))
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{what}: the mask{ours} has {mask.shape[1]} x {mask.shape[0]} pixels and its image{its} "
            f"{image.shape[1]} x {image.shape[0]}; they must be equal (EXIF orientation is applied to photos)."
        )
    if not (mask == 1).any():
        raise InputError(f"{what}: the mask{ours} is empty; mark the target with 1 or 255.")


def halved(values: NDArray[np.generic], what: str) -> Pixels:
    """A black-and-white mask [H, W] that JPEG has blurred, said in an `NtreWarning`: 1 from `HALF` on.

    Raises:
        InputError: `what` is not black and white.
    """
    if (soft := _soft(values)) is None:
        there = np.unique(values)
        raise InputError(
            f"{what} is a JPEG of the values {int(there[0])} to {int(there[-1])}, which is not black and white; "
            "JPEG keeps no values: save it as PNG."
        )
    warnings.warn(
        f"{what}: JPEG blurs masks, {soft:.1%} of its pixels are grey; from {HALF} on they are the target",
        NtreWarning,
        stacklevel=4,
    )
    return np.asarray(np.asarray(values, np.int64) >= HALF, np.uint8)


def chosen(values: NDArray[np.generic], choose: int | None, what: str, *, ignores: bool) -> Pixels:
    """As `normalise_mask`, for masks as tools write them; see `ntre_deploy.runtime.imagefile.read_mask`.

    Args:
        values: integers [H, W].
        choose: the value that is the target, or `ANY`; None where the mask has to say it by itself.
        what: names the mask in messages.
        ignores: whether 255 means "ignore" beside other values.

    Raises:
        InputError: it can mean several things, or has no pixel of what was chosen.
    """
    there = np.unique(values)
    objects = there[(there != 0) & (there != IGNORE)] if ignores or there.max() > IGNORE else there[there != 0]
    if choose is None:
        if _is_plain(there):
            return _plain(values, there)
        if len(objects) == 1:
            choose = int(objects[0])
            warnings.warn(f"{what}: its one value beside 0, {choose}, is the target", NtreWarning, stacklevel=4)
        elif there.max() <= IGNORE and (soft := _soft(values)) is not None:
            warnings.warn(
                f"{what}: {soft:.1%} of its pixels are grey (soft edges); from {HALF} on they are the target",
                NtreWarning,
                stacklevel=4,
            )
            return np.asarray(np.asarray(values, np.int64) >= HALF, np.uint8)
        else:
            odd = [v for v in objects.tolist() if v not in (1, IGNORE)][:_SHOWN]
            raise InputError(
                f"{what} holds the values {odd}; only 0, 1 (target) and 255 are allowed where no value is chosen: "
                f"add @{odd[0]} to the file's name for one of them, or @any for all but 0."
            )
    target = (values != 0) if choose == ANY else (values == choose)
    ignored = (values == IGNORE) & (choose != IGNORE) & bool(ignores or len(objects) > 1)
    mask = np.where(ignored, IGNORE, target & ~ignored).astype(np.uint8)
    if not (mask == 1).any():
        raise InputError(f"{what} has no pixel of the value {choose}; it holds {there.tolist()[:_SHOWN]}.")
    return mask


def mask_choice(file: str, choice: str) -> int:
    """The value that stands behind `file@` in a mask's name; `any` is `ANY`.

    Raises:
        InputError: it is neither a value of pixels nor `any`.
    """
    if choice == "any":
        return ANY
    if not (choice.isascii() and choice.isdecimal() and len(choice) <= 5):
        raise InputError(f"Mask {file}@{choice}: behind @ stands a value of its pixels, such as @1, or @any.")
    return int(choice)


def _soft(values: NDArray[np.generic]) -> float | None:
    """The share of pixels between black and white; None where there are too many for a black-and-white mask."""
    grey = np.asarray(values, np.int64)
    if grey.min() > _NEARLY or grey.max() < IGNORE - _NEARLY:
        return None
    between = float(((grey > _NEARLY) & (grey < IGNORE - _NEARLY)).mean())
    return between if between <= _MOST_SOFT else None


def mask_iou(a: Pixels, b: Pixels) -> float:
    """IoU of two binary masks, uint8 [H, W] with 0 for the rest; 1 where both are empty."""
    union = int(np.count_nonzero((a > 0) | (b > 0)))
    return int(np.count_nonzero((a > 0) & (b > 0))) / union if union else 1.0

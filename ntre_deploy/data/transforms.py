"""Training augmentation: scale, rotation, blur, flip and random crop, with image and mask in step.

The steps, their order and their ranges are those of the released code family (PFENet's `util/transform.py`, which
comes from semseg).  Three things differ: nearest and bilinear sampling share pixel centres here, the best crop of
the tries is taken and not the last, and no step takes the whole target away.
"""

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.masks import IGNORE

IMAGENET_FILL = (124, 116, 104)
# OpenCV keeps coordinates of the maps between images in 16 bits
_MAX_SIDE = 32_767


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the augmentation; the defaults are those of PFENet's PASCAL-5i and COCO-20i configurations.

    Attributes:
        scale: least and greatest factor, drawn evenly, on both sides alike.
        rotation: least and greatest angle in degrees, counter-clockwise, about the centre; the frame stays.
        rotation_probability: share of the images that are rotated.
        blur_kernel: side of the Gaussian kernel, odd; its sigma follows from it (OpenCV: 1.1 for 5).
        blur_probability: share of the images that are blurred.
        flip_probability: share of the images that are mirrored left to right.
        keep: share of the target that a crop should keep; another one is tried below it.
        crop_tries: how many crops are tried (PFENet: one and 31 more).
        fill: RGB of the padding; None is the network's mean colour to the nearest level (`augment` alone: ImageNet's),
            which is 0 within 0.01 when normalised.

    Raises:
        InputError: a range is empty or a value is outside what it can be.
    """

    scale: tuple[float, float] = (0.9, 1.1)
    rotation: tuple[float, float] = (-10.0, 10.0)
    rotation_probability: float = 0.5
    blur_kernel: int = 5
    blur_probability: float = 0.5
    flip_probability: float = 0.5
    keep: float = 0.85
    crop_tries: int = 32
    fill: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        expected = {
            "scale": (0 < self.scale[0] <= self.scale[1] < math.inf, "0 < least <= greatest"),
            "rotation": (-180 <= self.rotation[0] <= self.rotation[1] <= 180, "-180 <= least <= greatest <= 180"),
            "blur_kernel": (self.blur_kernel > 0 and self.blur_kernel % 2 == 1, "an odd number, 1 or more"),
            "crop_tries": (self.crop_tries > 0, "1 or more"),
            "fill": (
                self.fill is None or (len(self.fill) == 3 and all(0 <= level <= 255 for level in self.fill)),
                "three levels, 0 to 255",
            ),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            good, form = expected.get(field.name) or (0 <= value <= 1, "0 to 1")
            if not good:
                raise InputError(f"Augmentation: {field.name} is {value}; {form} is expected.")


def augment(
    image: Pixels, mask: Pixels, size: int, rng: np.random.Generator, options: Augmentation | None = None
) -> tuple[Pixels, Pixels]:
    """Draw one augmented crop of `size` x `size` pixels.

    Everything random comes from `rng`: equal states give equal results.  The image is sampled bilinearly and the
    mask at the nearest pixel; where no image is (corners after a rotation, crops larger than the image), the image
    has the colour of `options.fill` and the mask 255.

    A crop that keeps less than `options.keep` of the target is drawn again.  After `options.crop_tries` the one
    that keeps most is taken; if none keeps any, one that is centred on a pixel of the target is taken.  A scale or
    a rotation that would leave no target is left out.  So the result shows a target whenever `mask` does.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W] with 0, 1 (target) and 255 (ignore); other values stay what they are.
        size: side of the crop.
        rng: NumPy's generator.
        options: ranges; None takes the defaults of `Augmentation`.

    Returns:
        New arrays: image uint8 [size, size, 3] and mask uint8 [size, size] with 0, 1 and 255.

    Raises:
        InputError: another shape or dtype, image and mask of different sizes, other values in the mask, a side that
            is too long, or a size outside 1 to 32,767.

    Source: PFENet (Tian et al., TPAMI 2020), released code, `util/transform.py` and `train.py`.
    """
    options = options or Augmentation()
    _check(image, mask, size, options)
    fill = options.fill or IMAGENET_FILL
    scale, turned, angle, blurred, flipped = rng.random(5)
    image, mask = _scale(image, mask, _between(options.scale, scale))
    if turned < options.rotation_probability:
        image, mask = _rotate(image, mask, _between(options.rotation, angle), fill)
    if blurred < options.blur_probability:
        kernel = (options.blur_kernel, options.blur_kernel)
        image = np.asarray(cv2.GaussianBlur(image, kernel, 0), np.uint8)
    if flipped < options.flip_probability:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return _crop(image, mask, size, rng, options, fill)


def _check(image: Pixels, mask: Pixels, size: int, options: Augmentation) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"The image is {image.dtype} {list(image.shape)}; a uint8 RGB array [H, W, 3] is expected.")
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise InputError(f"The mask is {mask.dtype} {list(mask.shape)}; a uint8 array [H, W] is expected.")
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"The mask is {mask.shape[1]} x {mask.shape[0]} pixels but its image is "
            f"{image.shape[1]} x {image.shape[0]}; both must have the same size."
        )
    if not 1 <= size <= _MAX_SIDE:
        raise InputError(f"A crop of {size} pixels is not possible; 1 to {_MAX_SIDE} is expected.")
    if max(mask.shape) * max(options.scale[1], 1) > _MAX_SIDE:
        raise InputError(
            f"The image is {mask.shape[1]} x {mask.shape[0]} pixels; at most {_MAX_SIDE} on a side after scaling."
        )


def _between(limits: tuple[float, float], share: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * share)


def _lost(before: Pixels, after: Pixels) -> bool:
    return bool((before == 1).any() and not (after == 1).any())


def _scale(image: Pixels, mask: Pixels, factor: float) -> tuple[Pixels, Pixels]:
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    # Plain INTER_NEAREST starts at the pixels' corners, half a pixel beside the bilinear image
    small = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    if _lost(mask, small):
        return image, mask
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8), small


def _rotate(image: Pixels, mask: Pixels, angle: float, fill: tuple[int, int, int]) -> tuple[Pixels, Pixels]:
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    turned = cv2.warpAffine(
        mask, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE
    )
    if _lost(mask, np.asarray(turned, np.uint8)):
        return image, mask
    picture = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return np.asarray(picture, np.uint8), np.asarray(turned, np.uint8)


def _crop(
    image: Pixels,
    mask: Pixels,
    size: int,
    rng: np.random.Generator,
    options: Augmentation,
    fill: tuple[int, int, int],
) -> tuple[Pixels, Pixels]:
    """A random window; where the image is smaller than it, the image stands in the middle of the padding."""
    height, width = mask.shape
    top, left = max(size - height, 0) // 2, max(size - width, 0) // 2
    target = mask == 1
    whole = int(np.count_nonzero(target))
    best = (-1, 0, 0)
    for _ in range(options.crop_tries):
        # The image is never cropped on a side that is padded, so the padding does not move the offsets
        y = int(rng.integers(max(height - size, 0) + 1))
        x = int(rng.integers(max(width - size, 0) + 1))
        kept = int(np.count_nonzero(target[y : y + size, x : x + size]))
        if kept > best[0]:
            best = (kept, y, x)
        if kept >= options.keep * whole:
            break
    kept, y, x = best
    if whole and not kept:
        rows, columns = np.nonzero(target)
        pixel = int(rng.integers(whole))
        y = min(max(int(rows[pixel]) - size // 2, 0), max(height - size, 0))
        x = min(max(int(columns[pixel]) - size // 2, 0), max(width - size, 0))
    inner = mask[y : y + size, x : x + size]
    window = slice(top, top + inner.shape[0]), slice(left, left + inner.shape[1])
    picture = np.full((size, size, 3), fill, np.uint8)
    labels = np.full((size, size), IGNORE, np.uint8)
    picture[window], labels[window] = image[y : y + size, x : x + size], inner
    return picture, labels

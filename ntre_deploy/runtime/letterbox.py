"""Pre-processing, once for training, export, runtime and bench: letterbox and normalisation.

The `exact` protocol: the image is scaled to fit the square input with its aspect ratio kept, put at the top left, and
the rest is filled with the mean colour.  The way back is in `labels.py`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.inputspec import InputSpec

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# the largest side that OpenCV's resize can address
MAX_SIDE = 32_767
# below this factor, bilinear sampling skips pixels and aliases
_AREA_BELOW = 0.5


@dataclass(frozen=True)
class Letterbox:
    """Where an image of `height` x `width` pixels lies in the square input of `size` pixels (top left)."""

    size: int
    height: int
    width: int
    inner_height: int
    inner_width: int

    @property
    def averages(self) -> bool:
        """Whether pixels are averaged on the way in, rather than interpolated."""
        return self.size / max(self.height, self.width) < _AREA_BELOW

    @classmethod
    def fit(cls, height: int, width: int, size: int) -> "Letterbox":
        """The largest fit with the aspect ratio kept; a side never falls below one pixel."""
        longer = max(height, width)
        return cls(size, height, width, max(1, round(height * size / longer)), max(1, round(width * size / longer)))


def check_image(image: object, what: str = "The image") -> Pixels:
    """Return `image` when it is uint8 RGB [H, W, 3] of a size that can be processed.

    Raises:
        InputError: names the type, dtype or shape that was given.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{what} is {given}; a uint8 RGB array [H, W, 3] is expected.")
    if min(image.shape) == 0 or max(image.shape) > MAX_SIDE:
        raise InputError(f"{what} has {image.shape[1]} x {image.shape[0]} pixels; a side is 1 to {MAX_SIDE}.")
    return image


def prepare_image(image: Pixels, spec: InputSpec) -> tuple[Float, Letterbox]:
    """Letterbox and normalise one image.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        float32 [3, size, size], zero (the mean colour) outside the image, and the geometry for the way back.

    Raises:
        InputError: the array is no uint8 RGB image.
    """
    image = check_image(image)
    return prepare_reduced(image, (image.shape[0], image.shape[1]), spec)


def prepare_reduced(image: Pixels, size: tuple[int, int], spec: InputSpec) -> tuple[Float, Letterbox]:
    """As `prepare_image`, of an image that was read smaller than it is.

    Args:
        image: uint8 RGB [h, w, 3], such as `ntre_deploy.runtime.imagefile.read_reduced` gives.
        size: (H, W) of the image itself, to which the way back leads.

    Returns:
        float32 [3, size, size], as `prepare_image`.

    Raises:
        InputError: the array is no uint8 RGB image.
    """
    image = check_image(image)
    box = Letterbox.fit(*size, spec.size)
    averages = spec.size / max(image.shape[:2]) < _AREA_BELOW
    method = cv2.INTER_AREA if averages else cv2.INTER_LINEAR
    small = cv2.resize(image, (box.inner_width, box.inner_height), interpolation=method)
    out = np.zeros((3, spec.size, spec.size), np.float32)
    inner = out[:, : box.inner_height, : box.inner_width]
    for channel in range(3):
        np.subtract(small[..., channel], np.float32(spec.mean[channel]), out=inner[channel])
        inner[channel] *= np.float32(1 / spec.std[channel])
    return out, box


def prepare_mask(mask: Pixels, spec: InputSpec) -> Float:
    """Letterbox a support mask: uint8 [H, W], 1 is the target, anything else is not -> float32 [size, size] of 0, 1."""
    box = Letterbox.fit(mask.shape[0], mask.shape[1], spec.size)
    target = (mask == 1).astype(np.uint8)
    small = cv2.resize(target, (box.inner_width, box.inner_height), interpolation=cv2.INTER_NEAREST_EXACT)
    out = np.zeros((spec.size, spec.size), np.float32)
    out[: box.inner_height, : box.inner_width] = small
    return out

"""Images and masks as people hold them, arrays, files, PIL images and tensors, to the arrays that the network takes.

No framework is imported: a tensor brings its own way to the host.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import read_image, read_mask, rgb_pixels
from ntre_deploy.runtime.letterbox import check_image

Pixels = NDArray[np.uint8]

# by which a resize of float images may leave 0 to 1
_SLACK = 1e-3


def as_image(given: object, what: str = "The image") -> Pixels:
    """An image as uint8 RGB [H, W, 3].

    Args:
        given: such an array, which is returned as it is; the same as floats from 0 to 1, or with the channels first,
            [3, H, W]; a tensor of any framework and on any device, in those forms; a file (as `read_image` reads it);
            or a PIL image, which is turned as its EXIF data say.  A NumPy array whose first and last sides are 3 is
            [H, W, 3]; a tensor of that shape is refused.
        what: names it in messages.

    Raises:
        InputError: it is none of these, its shape can mean two things, or its values are no image's.
    """
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return check_image(given, what)
    if isinstance(given, str | PathLike):
        return read_image(Path(given))
    if isinstance(given, Image.Image):
        return check_image(rgb_pixels(given, "PIL image"), what)
    array = _on_host(given, what)
    if array is None:
        return check_image(given, what)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        return check_image(array, what)
    if array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    elif array.shape[0] == 3 and not isinstance(given, np.ndarray):
        raise InputError(
            f"{what} is a tensor {list(array.shape)}, which may be [H, W, 3] or [3, H, W]; give it as a uint8 RGB "
            "array [H, W, 3]."
        )
    if array.dtype.kind == "f":
        array = _from_floats(array, what)
    return check_image(np.ascontiguousarray(array), what)


def as_mask(given: object, what: str = "The mask") -> NDArray[np.generic]:
    """A mask as an array [H, W], whose values `normalise_mask` checks.

    Args:
        given: an array or tensor [H, W] or [1, H, W], a file (as `read_mask` reads it), or a PIL image of one channel.
        what: names it in messages.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(given, np.ndarray):
        return given
    if isinstance(given, str | PathLike):
        return read_mask(Path(given))
    if isinstance(given, Image.Image):
        if len(given.getbands()) > 1:
            raise InputError(f"{what} is a PIL image of mode {given.mode}; one channel (1, L, P) is expected.")
        return np.asarray(given)
    array = _on_host(given, what)
    if array is None:
        array = np.asarray(given)
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def _on_host(given: Any, what: str) -> NDArray[Any] | None:
    """A tensor's values as an array in host memory; None for what is no tensor."""
    if isinstance(given, np.ndarray):
        return given
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):  # PyTorch
            given = given.detach().cpu()
            try:
                return np.asarray(given.numpy())
            except TypeError:  # bfloat16, which NumPy lacks
                return np.asarray(given.float().numpy())
        if hasattr(given, "__cuda_array_interface__") and hasattr(given, "get"):  # CuPy
            return np.asarray(given.get())
        if hasattr(given, "__array__"):
            return np.asarray(given)
        if hasattr(given, "__dlpack__"):
            return np.from_dlpack(given)
    except (TypeError, ValueError, RuntimeError, BufferError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{what} is a {type(given).__name__} that cannot be copied to an array: {reason}") from error
    return None


def _from_floats(array: NDArray[Any], what: str) -> Pixels:
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    # written so that NaN fails
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise InputError(
            f"{what} holds floats from {low:.4g} to {high:.4g}; 0 to 1 is expected, or a uint8 RGB array [H, W, 3]."
        )
    return np.asarray(np.rint(np.clip(array, 0, 1) * np.float32(255)), np.uint8)

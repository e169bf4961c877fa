"""Binary PPM and PGM, which programs in every language read without a decoder."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.errors import InputError

Pixels = NDArray[np.uint8]


def to_netpbm(pixels: Pixels) -> bytes:
    """The file of an RGB image [H, W, 3] (P6) or a mask [H, W] (P5)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PPM")
    return buffer.getvalue()


def from_netpbm(content: bytes, mode: str) -> Pixels:
    """The pixels of a file: uint8 [H, W, 3] of mode `RGB`, or [H, W] of mode `L`.

    Raises:
        InputError: it is no such file; tells what is wrong without its name.
    """
    # Pillow reads plain text too, which no other runner has to
    if content[:2] != (b"P6" if mode == "RGB" else b"P5"):
        raise InputError(f"it is no binary {'PPM' if mode == 'RGB' else 'PGM'}")
    try:
        with Image.open(io.BytesIO(content), formats=("PPM",)) as image:
            if image.mode != mode:
                raise InputError(f"it holds {image.mode} where {mode} is expected")
            return np.array(image, np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"it is no readable PPM or PGM ({error})") from error


def repeated(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Pixels [h, w, ...], repeated or cut to [height, width, ...] from the top left on."""
    rows, columns = np.arange(height) % pixels.shape[0], np.arange(width) % pixels.shape[1]
    return np.ascontiguousarray(pixels[rows][:, columns])

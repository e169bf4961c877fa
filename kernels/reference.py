"""The kernels' arithmetic in NumPy. For labels, `runtime.labels.label_map` itself is the reference."""

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.kernels.launch import Box, Colours

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
_Ints = NDArray[np.int64]

_FIXED_ONE = np.float32(2048)


def prepare(image: Pixels, box: Box, colours: Colours) -> Float:
    """Letterbox and normalise as `runtime.letterbox.prepare_image`, with OpenCV's resize written out.

    OpenCV 4.12 and 5.0 on x86 give the same grey levels, every one.  Builds for other processors may use other vector
    code for the same weights and round one level apart: 1 / std of the result.

    Args:
        image: uint8 RGB [height, width, 3].

    Returns:
        float32 [3, size, size].
    """
    resized = _area(image, box) if box.averages else _linear(image, box)
    mean = np.asarray(colours.mean, np.float32)
    scale = np.asarray([1 / std for std in colours.std], np.float32)
    out = np.zeros((3, box.size, box.size), np.float32)
    out[:, : box.inner_height, : box.inner_width] = ((resized - mean) * scale).transpose(2, 0, 1)
    return out


def _linear_taps(n_out: int, n_in: int, is_column: bool) -> tuple[_Ints, _Ints, _Ints, _Ints]:
    at = (((2 * np.arange(n_out) + 1) * n_in - n_out) / (2 * n_out)).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    share = at - low.astype(np.float32)
    if is_column:  # OpenCV drops the share outside the image here, and only clamps the index for rows
        share[(low < 0) | (low >= n_in - 1)] = 0
        low = np.clip(low, 0, n_in - 1)
    high = np.clip(low + 1, 0, n_in - 1)
    shares = (np.rint(part * _FIXED_ONE).astype(np.int64) for part in (np.float32(1) - share, share))
    return np.clip(low, 0, n_in - 1), high, *shares


def _linear(image: Pixels, box: Box) -> Float:
    low, high, low_share, high_share = _linear_taps(box.inner_width, box.width, True)
    wide = image.astype(np.int64)
    across = wide[:, low] * low_share[:, None] + wide[:, high] * high_share[:, None]
    low, high, low_share, high_share = _linear_taps(box.inner_height, box.height, False)
    upper = low_share[:, None, None] * (across[low] >> 4) >> 16
    lower = high_share[:, None, None] * (across[high] >> 4) >> 16
    return ((upper + lower + 2) >> 2).astype(np.float32)


def _area_weights(n_out: int, n_in: int, whole: bool) -> Float:
    """[n_out, n_in]; a pixel covered by less than 1/1000 is left out, as in OpenCV."""
    source = np.arange(n_in)
    begin = np.arange(n_out)[:, None] * n_in  # in units of 1 / n_out pixel
    covered = np.minimum((source + 1) * n_out, begin + n_in) - np.maximum(source * n_out, begin)
    covered[(covered < n_out) & (covered * 1000 <= n_out)] = 0
    if whole:
        return (covered > 0).astype(np.float32)
    return covered.astype(np.float32) / np.float32(n_in)


def _area(image: Pixels, box: Box) -> Float:
    whole = box.height % box.inner_height == 0 and box.width % box.inner_width == 0
    wide = image.astype(np.float32)
    # one product and one sum at a time, in float32 and in OpenCV's order: it decides how ties round
    across = _accumulate(wide.transpose(1, 0, 2), _area_weights(box.inner_width, box.width, whole))
    total = _accumulate(across.transpose(1, 0, 2), _area_weights(box.inner_height, box.height, whole))
    if whole:
        area = (box.height // box.inner_height) * (box.width // box.inner_width)
        total = total * (np.float32(1) / np.float32(area))
    return np.clip(np.rint(total), 0, 255)


def _accumulate(lines: Float, weights: Float) -> Float:
    out = np.zeros((len(weights), *lines.shape[1:]), np.float32)
    for index, row in enumerate(weights):
        for source in np.flatnonzero(row):
            out[index] += lines[source] * row[source]
    return out

"""The C++ runtime's pixel functions in Python's hands."""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_POINTER = ctypes.c_void_p


def _sizes(box: Letterbox) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * 3)(box.height, box.width, box.size)


class PixelFunctions:
    """What `pixels.cpp` exports, with the signatures of `ntre_deploy.runtime`'s own functions."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def prepare_image(self, image: Pixels, spec: InputSpec) -> tuple[Float, tuple[int, int]]:
        """float32 [3, S, S] and (height, width) of the image in it; the image's rows may lie apart."""
        assert image.strides[1:] == (3, 1)
        # nothing that was there may be left
        out = np.full((3, spec.size, spec.size), np.nan, np.float32)
        inner = (ctypes.c_int32 * 2)()
        self._library.pixels_prepare(
            _POINTER(image.ctypes.data),
            *image.shape[:2],
            ctypes.c_ssize_t(image.strides[0]),
            spec.size,
            (ctypes.c_double * 3)(*spec.mean),
            (ctypes.c_double * 3)(*spec.std),
            _POINTER(out.ctypes.data),
            inner,
        )
        return out, (inner[0], inner[1])

    def prepare_mask(self, mask: Pixels, size: int) -> Float:
        mask = np.ascontiguousarray(mask)
        out = np.full((size, size), np.nan, np.float32)
        sizes = (ctypes.c_int32 * 3)(*mask.shape, size)
        self._library.pixels_mask(_POINTER(mask.ctypes.data), sizes, _POINTER(out.ctypes.data))
        return out

    def resize_area(self, plane: Float, width: int, height: int) -> Float:
        out = np.full((height, width), np.nan, np.float32)
        plane = np.ascontiguousarray(plane)
        rows, columns = plane.shape
        self._library.pixels_area(_POINTER(plane.ctypes.data), columns, rows, width, height, _POINTER(out.ctypes.data))
        return out

    def back_map(self, length: int, inner: int, size: int, features: int) -> Float:
        out = np.zeros((length, features), np.float32)
        self._library.pixels_way_back(length, inner, size, features, _POINTER(out.ctypes.data))
        return out

    def label_map(self, logits: Float, box: Letterbox) -> Pixels:
        logits = np.ascontiguousarray(logits)
        out = np.full((box.height, box.width), 255, np.uint8)
        classes, _, h, w = logits.shape
        self._library.pixels_labels(
            _POINTER(logits.ctypes.data), classes, h, w, _sizes(box), _POINTER(out.ctypes.data)
        )
        return out

    def class_scores(self, labels: Pixels, logits: Float, box: Letterbox) -> NDArray[np.float64]:
        logits = np.ascontiguousarray(logits)
        classes, _, h, w = logits.shape
        out = np.full(classes, np.nan)
        self._library.pixels_scores(
            _POINTER(labels.ctypes.data),
            _POINTER(logits.ctypes.data),
            classes,
            h,
            w,
            _sizes(box),
            _POINTER(out.ctypes.data),
        )
        return out

    def margin_map(self, logits: Float, box: Letterbox) -> Float:
        logits = np.ascontiguousarray(logits)
        out = np.full((box.height, box.width), np.nan, np.float32)
        h, w = logits.shape[1:]
        self._library.pixels_margins(_POINTER(logits.ctypes.data), h, w, _sizes(box), _POINTER(out.ctypes.data))
        return out

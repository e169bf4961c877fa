"""Pictures of a result."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.runtime.overlay import overlay, tag_names

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result

Pixels = NDArray[np.uint8]

# the longer side of a picture in a notebook
_PREVIEW = 1024


def plot(result: "Result", opacity: float = 0.5, names: bool = True) -> Pixels:
    """The image with the classes drawn in, uint8 RGB [H, W, 3]; see `Result.plot`."""
    return _drawn(result, result.image, result.labels, opacity, names)


def preview(result: "Result") -> bytes:
    """The same as a PNG, no larger than a screen."""
    height, width = result.size
    scale = min(_PREVIEW / max(height, width), 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image, labels = result.image, result.labels
    if scale < 1:
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)
        if image is not None:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    picture = _drawn(result, image, labels, 0.5, True)
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def _drawn(result: "Result", image: Pixels | None, labels: Pixels, opacity: float, names: bool) -> Pixels:
    picture = overlay(np.zeros((*labels.shape, 3), np.uint8) if image is None else image, labels, opacity)
    return tag_names(picture, labels, result.names) if names else picture

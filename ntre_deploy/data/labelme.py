"""LabelMe's JSON files: the shapes that somebody drew on one photo, turned into a mask of one label."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import MAX_PIXELS
from ntre_deploy.runtime.masks import Pixels

# fractions of a pixel that OpenCV draws, as a power of two
_SHIFT = 4
# points that a shape needs at least
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2}


def is_labelme(content: object) -> bool:
    """Whether parsed JSON is a file of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def labelme_mask(path: Path, content: dict[str, Any], label: str | None) -> Pixels:
    """The shapes of one label as a mask: polygons, rectangles and circles.

    Args:
        path: of the file, for messages.
        content: of it.
        label: whose shapes; None where there is one.

    Returns:
        uint8 [H, W] of the size that the file says, 1 inside the shapes.

    Raises:
        InputError: no size, several labels and none was named, no such label, or a shape that cannot be drawn.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise InputError(f"{path} says no size of its image (imageHeight, imageWidth); save it with LabelMe again.")
    shapes = [shape for shape in content["shapes"] if isinstance(shape, dict)]
    labels = list(dict.fromkeys(str(shape.get("label")) for shape in shapes))
    if label is None and len(labels) != 1:
        raise InputError(f"{path} has the labels {', '.join(labels) or 'of none'}; add @LABEL to its name.")
    wanted = labels[0] if label is None else label
    if wanted not in labels:
        raise InputError(f"{path} has no label '{wanted}'; it has {', '.join(labels)}.")
    mask = np.zeros((height, width), np.uint8)
    for number, shape in enumerate(shapes):
        if str(shape.get("label")) == wanted:
            _draw(mask, path, number, shape)
    return mask


def _draw(mask: Pixels, path: Path, number: int, shape: dict[str, Any]) -> None:
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind not in _POINTS:
        known = ", ".join(_POINTS)
        raise InputError(f"{path}: shape {number} is a {kind}; {known} can be read.")
    reach = 2 * max(mask.shape)
    if not isinstance(points, list) or len(points) < _POINTS[kind] or not all(_is_point(p, reach) for p in points):
        raise InputError(f"{path}: shape {number} needs {_POINTS[kind]} points [x, y] or more, in or near the image.")
    corners = np.array(points, np.float64)
    if kind == "circle":
        # its middle, and a point on it
        radius = float(np.hypot(*(corners[1] - corners[0])))
        turn = np.linspace(0, 2 * math.pi, max(16, round(4 * radius)), endpoint=False)
        corners = corners[0] + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = corners[:2]
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    # LabelMe counts from the corner of the first pixel, OpenCV from its middle
    fixed = np.round((corners - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (1,), lineType=cv2.LINE_8, shift=_SHIFT)


def _is_point(point: object, reach: int) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) and abs(value) <= reach for value in point)

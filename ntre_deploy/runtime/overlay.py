"""Pictures for people: masks over photos, side by side."""

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]


def palette(classes: int) -> Pixels:
    """uint8 [classes + 1, 3] RGB; label 0 is black, the others are spread over the hues by the golden ratio."""
    colours = [(0, 0, 0)]
    for index in range(classes):
        # from a pink that few photos hold
        hue = (0.89 + index * 0.618033988749895) % 1.0
        r, g, b = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
        colours.append((round(255 * r), round(255 * g), round(255 * b)))
    return np.asarray(colours, np.uint8)


def overlay(image: Pixels, labels: Pixels, opacity: float = 0.5) -> Pixels:
    """Tint each labelled region and draw its outline.

    Args:
        image: uint8 RGB [H, W, 3].
        labels: uint8 [H, W], 0 is background.

    Returns:
        uint8 RGB [H, W, 3].
    """
    # OpenCV draws into arrays without negative strides
    out = np.array(image, order="C")
    thickness = max(1, round(max(image.shape[:2]) / 320))
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(labels))
    if width == 0:
        return out
    # where the classes and their outlines are: a frame is often empty for the most part
    margin = thickness + 3
    near = (slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin))
    _draw(out[near], np.ascontiguousarray(labels[near]), opacity, thickness)
    return out


def _draw(out: Pixels, labels: Pixels, opacity: float, thickness: int) -> None:
    top = int(labels.max(initial=0))
    colours = palette(max(top, 1))
    # a table of 256 colours is several times faster than indexing with NumPy
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(colours), 0] = colours
    tint = cv2.applyColorMap(labels, table)
    cv2.copyTo(cv2.addWeighted(out, 1 - opacity, tint, opacity, 0), (labels > 0).view(np.uint8), out)
    for label in range(1, top + 1):
        region = (labels == label).astype(np.uint8)
        outlines, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        colour = tuple(int(v) for v in colours[label])
        cv2.drawContours(out, outlines, -1, (255, 255, 255), thickness + 1, cv2.LINE_AA)
        cv2.drawContours(out, outlines, -1, colour, thickness, cv2.LINE_AA)
        for points in outlines:  # a smoothed stroke leaves single pixels to the rim
            out[points[:, 0, 1], points[:, 0, 0]] = colours[label]


# a tag on a smaller picture would hide what it names, and one on a smaller region looks like a result
_MIN_TAGGED, _MIN_REGION = 80, 0.001
# pixels of the longer side at which regions are looked for
_COARSE = 640


def tag_names(picture: Pixels, labels: Pixels, names: Sequence[str]) -> Pixels:
    """Write each class's name, in its colour, above the largest of its regions.

    Args:
        picture: uint8 RGB [H, W, 3], such as an overlay.
        labels: uint8 [H, W], n is the n-th of `names`.

    Returns:
        uint8 RGB [H, W, 3]; the picture as it is where it is smaller than a tag is worth.
    """
    height, width = labels.shape
    if min(height, width) < _MIN_TAGGED:
        return picture
    out = picture.copy()
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    size = min(max(round(max(height, width) / 36), 12), 64)
    font, pad = ImageFont.load_default(size), size // 4
    colours = palette(len(names))
    taken: list[tuple[float, float, float, float]] = []
    for label, name in enumerate(names, 1):
        anchor = _largest_region(labels == label)
        if anchor is None:
            continue
        left, top, right, bottom = measure.textbbox((0, 0), name, font=font)
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        x = min(max(anchor[0], 0), max(width - w, 0))
        y = min(max(anchor[1] - h, 0), max(height - h, 0))
        while any(x < r and x + w > l and y < b and y + h > t for l, t, r, b in taken) and y + h < height:  # noqa: E741
            y += pad
        taken.append((x, y, x + w, y + h))
        r, g, b = (int(v) for v in colours[label])
        # the eye's weights of the three colours (ITU-R BT.601)
        ink = (0, 0, 0) if 0.299 * r + 0.587 * g + 0.114 * b > 128 else (255, 255, 255)
        # Pillow draws on a picture of its own, and the whole frame need not be copied there and back
        x0, y0 = math.floor(x), math.floor(y)
        part = (slice(y0, math.ceil(y + h) + 1), slice(x0, math.ceil(x + w) + 1))
        canvas = Image.fromarray(out[part])
        draw = ImageDraw.Draw(canvas)
        draw.rounded_rectangle((x - x0, y - y0, x - x0 + w - 1, y - y0 + h - 1), radius=pad, fill=(r, g, b))
        draw.text((x - x0 + pad - left, y - y0 + pad - top), name, font=font, fill=ink)
        out[part] = np.asarray(canvas)
    return out


def _largest_region(inside: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Left and top of the box around the largest connected part; None where it is not worth a tag."""
    # where the tag of a large picture goes need not be known to the pixel
    step = max(1, max(inside.shape) // _COARSE)
    inside = inside[::step, ::step]
    count, _, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    largest = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    if largest[cv2.CC_STAT_AREA] < _MIN_REGION * inside.size:
        return None
    return int(largest[cv2.CC_STAT_LEFT]) * step, int(largest[cv2.CC_STAT_TOP]) * step


def contact_sheet(
    rows: Sequence[Sequence[Pixels]], titles: Sequence[str], cell: tuple[int, int] = (240, 180)
) -> Pixels:
    """A titled grid of pictures, each fitted into a cell of (width, height) pixels; uint8 RGB [H, W, 3]."""
    width, height = cell
    gap, header = 8, 28
    sheet = np.full(
        (header + len(rows) * (height + gap) + gap, len(titles) * (width + gap) + gap, 3), 250, dtype=np.uint8
    )
    for column, title in enumerate(titles):
        at = (gap + column * (width + gap), header - 8)
        cv2.putText(sheet, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            scale = min(width / picture.shape[1], height / picture.shape[0])
            fitted = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            small = cv2.resize(picture, fitted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
            y = header + r * (height + gap) + (height - fitted[1]) // 2
            x = gap + c * (width + gap) + (width - fitted[0]) // 2
            sheet[y : y + fitted[1], x : x + fitted[0]] = small
    return sheet

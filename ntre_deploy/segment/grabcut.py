"""A box or a few points on a photo, turned into a mask by OpenCV's GrabCut (Rother, Kolmogorov & Blake, 2004)."""

import math
import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels

# GrabCut's time follows the number of pixels, and its colour models gain nothing from more of them
_SIDE = 640
_ROUNDS_OF_BOX, _ROUNDS_OF_POINTS = 5, 3
# its colour models have five parts each and need a pixel for each
_FEWEST = 5
# around a point: what is the target for certain, where it is looked for first, and beyond what it is not.  In parts of
# the photo's longer side and of the greatest distance between two points, which tells how large the target is.
_CERTAIN = 0.015
_NEAR, _FAR = (0.04, 0.3), (0.1, 0.8)
_NEAR_ALONE, _FAR_ALONE = (0.08, 0.0), (0.25, 0.0)
_MARK = (255, 255, 255), (20, 20, 20)

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?%?", re.ASCII)

# a coordinate, and whether it is in percent of the photo's side
Coordinate = tuple[float, bool]


@dataclass(frozen=True)
class Box:
    """Two corners, in either order: the target lies within."""

    corners: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    text: str


@dataclass(frozen=True)
class Points:
    """Points on the target, and points on what is not."""

    target: tuple[tuple[Coordinate, Coordinate], ...]
    background: tuple[tuple[Coordinate, Coordinate], ...]
    text: str


def read_box(text: str) -> Box:
    """`x1,y1,x2,y2` in pixels of the upright photo, or in percent of its sides (`10%`).

    Raises:
        InputError: it is something else.
    """
    numbers = [_coordinate(part) for part in text.split(",")]
    if len(numbers) != 4 or None in numbers:
        raise InputError(f"Box '{text[:80]}' is not x1,y1,x2,y2, such as box=120,80,430,390 or box=10%,20%,60%,90%.")
    x1, y1, x2, y2 = (number for number in numbers if number is not None)
    return Box((x1, y1, x2, y2), text)


def read_points(text: str) -> Points:
    """`x,y;x,y;-x,y`: points on the target, and behind a minus on the background; units as of `read_box`.

    Raises:
        InputError: it is something else, or no point is on the target.
    """
    found: dict[bool, list[tuple[Coordinate, Coordinate]]] = {True: [], False: []}
    for part in re.split(r"[;\s]+", text.strip("; \t")):
        x, _, y = part.lstrip("-").partition(",")
        pair = _coordinate(x), _coordinate(y)
        if pair[0] is None or pair[1] is None or part.startswith("--"):
            raise InputError(
                f"Points '{text[:80]}' are not x,y;x,y with a minus before those of the background, such as "
                "'points=210,150;260,190;-20,30' (in quotes, as shells take ; for themselves)."
            )
        found[not part.startswith("-")].append((pair[0], pair[1]))
    if not found[True]:
        raise InputError(f"Points '{text[:80]}' are all of the background; one at least must be on the target.")
    return Points(tuple(found[True]), tuple(found[False]), text)


def cut(image: Pixels, prompt: Box | Points) -> Pixels:
    """The mask of what a box or points mean.

    It is the same each time.  Large photos are scaled down for it, so edges are those of some 640 pixels a side.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        uint8 [H, W], 1 on the target.

    Raises:
        InputError: the box or a point lies outside, there is nothing to tell apart, or nothing was found.
    """
    height, width = image.shape[:2]
    scale = min(_SIDE / max(height, width), 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image, np.uint8)
    marks = _marks_of_box(prompt, image, size) if isinstance(prompt, Box) else _marks_of_points(prompt, image, size)
    inner = (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    if min(np.count_nonzero(inner), np.count_nonzero(~inner)) < _FEWEST:
        raise InputError(
            f"'{prompt.text}' leaves fewer than {_FEWEST} pixels inside or outside in a photo of {width} x {height}; "
            "mark the target, with some of its surroundings left over."
        )
    found = _grab(small, marks, _ROUNDS_OF_BOX if isinstance(prompt, Box) else _ROUNDS_OF_POINTS)
    if isinstance(prompt, Points):
        found = _touched(found, marks == cv2.GC_FGD)
    if scale < 1:
        soft = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        found = soft >= 0.5
    mask = np.asarray(found, np.uint8)
    if isinstance(prompt, Box):
        # a pixel of the small picture reaches over the edge
        x1, y1, x2, y2 = _corners(prompt, height, width)
        kept = np.zeros_like(mask)
        kept[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
        mask = kept
    if not mask.any():
        raise InputError(f"GrabCut found nothing in '{prompt.text}'; mark the target more closely, or give a mask.")
    return mask


def draw_prompt(picture: Pixels, prompt: Box | Points) -> Pixels:
    """The box or the points (the background's as crosses) on uint8 RGB [H, W, 3] of the photo's size; a new array."""
    height, width = picture.shape[:2]
    out = np.array(picture, order="C")
    stroke = max(1, round(max(height, width) / 320))
    for colour, wide in zip(_MARK[::-1], (stroke + 2, stroke), strict=True):
        if isinstance(prompt, Box):
            x1, y1, x2, y2 = _corners(prompt, height, width)
            cv2.rectangle(out, (x1, y1), (x2 - 1, y2 - 1), colour, wide)
            continue
        for pair in prompt.target:
            cv2.circle(out, _pixel(pair, height, width), 4 * stroke, colour, wide, cv2.LINE_AA)
        for pair in prompt.background:
            cv2.drawMarker(out, _pixel(pair, height, width), colour, cv2.MARKER_TILTED_CROSS, 8 * stroke, wide)
    return out


def _grab(image: Pixels, marks: NDArray[np.uint8], rounds: int) -> NDArray[np.bool_]:
    """GrabCut from the marks on; [h, w]."""
    # its colour models begin with k-means from random centres
    cv2.setRNGSeed(0)
    models = np.zeros((2, 1, 65))
    marks = marks.copy()
    try:
        cv2.grabCut(
            cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR),
            marks,
            (0, 0, 1, 1),  # not looked at where there are marks
            models[0],
            models[1],
            rounds,
            cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error as error:
        raise InputError("GrabCut cannot tell target and background of this photo apart; give a mask.") from error
    return np.asarray((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD))


def _marks_of_box(box: Box, image: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = _corners(box, height, width)
    marks = np.full((size[1], size[0]), cv2.GC_BGD, np.uint8)
    across, down = size[0] / width, size[1] / height
    rows = slice(math.floor(y1 * down), max(math.ceil(y2 * down), math.floor(y1 * down) + 1))
    columns = slice(math.floor(x1 * across), max(math.ceil(x2 * across), math.floor(x1 * across) + 1))
    marks[rows, columns] = cv2.GC_PR_FGD
    return marks


def _marks_of_points(points: Points, image: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    at = [_small_pixel(pair, height, width, size) for pair in points.target]
    spread = max(math.dist(a, b) for a in at for b in at)
    near, far = (_NEAR, _FAR) if spread else (_NEAR_ALONE, _FAR_ALONE)
    marks = np.full((size[1], size[0]), cv2.GC_BGD, np.uint8)

    def discs(centres: list[tuple[int, int]], parts: tuple[float, float], value: int) -> None:
        radius = max(1, round(max(size) * parts[0] + spread * parts[1]))
        for centre in centres:
            cv2.circle(marks, centre, radius, value, cv2.FILLED)

    discs(at, far, cv2.GC_PR_BGD)
    discs(at, near, cv2.GC_PR_FGD)
    discs([_small_pixel(pair, height, width, size) for pair in points.background], (_CERTAIN, 0.0), cv2.GC_BGD)
    discs(at, (_CERTAIN, 0.0), cv2.GC_FGD)
    return marks


def _small_pixel(
    pair: tuple[Coordinate, Coordinate], height: int, width: int, size: tuple[int, int]
) -> tuple[int, int]:
    x, y = _pixel(pair, height, width)
    return min(int(x * size[0] / width), size[0] - 1), min(int(y * size[1] / height), size[1] - 1)


def _touched(found: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts that hold a seed: of the same colour there is often more elsewhere."""
    _, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    wanted = np.unique(parts[seeds & found])
    return np.isin(parts, wanted[wanted != 0])


def _corners(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in whole pixels, right and bottom not included."""
    x1, x2 = sorted(_scaled(c, width) for c in box.corners[0::2])
    y1, y2 = sorted(_scaled(c, height) for c in box.corners[1::2])
    if x2 > width or y2 > height:
        raise InputError(f"'{box.text}' lies outside its photo of {width} x {height} pixels.")
    left, top, right, bottom = round(x1), round(y1), round(x2), round(y2)
    if right <= left or bottom <= top:
        raise InputError(f"'{box.text}' has no area; give two opposite corners.")
    return left, top, right, bottom


def _pixel(pair: tuple[Coordinate, Coordinate], height: int, width: int) -> tuple[int, int]:
    x, y = _scaled(pair[0], width), _scaled(pair[1], height)
    if x > width or y > height:
        raise InputError(f"Point {x:g},{y:g} lies outside its photo of {width} x {height} pixels.")
    return min(int(x), width - 1), min(int(y), height - 1)


def _scaled(coordinate: Coordinate, side: int) -> float:
    value, percent = coordinate
    return value * side / 100 if percent else value


def _coordinate(text: str) -> Coordinate | None:
    text = text.strip()
    return (float(text.rstrip("%")), text.endswith("%")) if _NUMBER.fullmatch(text) else None

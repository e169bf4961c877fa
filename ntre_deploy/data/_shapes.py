"""Outlines of the procedural classes as polygons in a box from -1 to 1, y downwards."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Union of `parts` less the union of `holes`, each float32 [N, 2] as (x, y)."""

    parts: tuple[Points, ...]
    holes: tuple[Points, ...] = ()


def _points(*xy: tuple[float, float]) -> Points:
    return np.array(xy, np.float32)


def _polar(radius: Callable[[NDArray[np.float64]], NDArray[np.float64]], n: int = 120) -> Points:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    r = radius(t)
    return np.stack([r * np.sin(t), -r * np.cos(t)], axis=1).astype(np.float32)


def _ellipse(x: float, y: float, a: float, b: float, n: int = 64, tilt: float = 0.0) -> Points:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    u, v, c, s = a * np.cos(t), b * np.sin(t), np.cos(tilt), np.sin(tilt)
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1).astype(np.float32)


def _arc(x: float, y: float, r: float, start: float, end: float, n: int = 48) -> Points:
    t = np.radians(np.linspace(start, end, n))
    return np.stack([x + r * np.cos(t), y + r * np.sin(t)], axis=1).astype(np.float32)


def _lens(length: float, width: float) -> Points:
    """Pointed oval along y."""
    y = np.linspace(-1, 1, 40)
    x = width * np.cos(y * np.pi / 2) ** 0.8
    return np.concatenate([np.stack([x, y * length], 1), np.stack([-x, y * length], 1)[::-1]]).astype(np.float32)


def _star(points: int, inner: float) -> Points:
    t = np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([r * np.sin(t), -r * np.cos(t)], axis=1).astype(np.float32)


def _gear(teeth: int) -> Points:
    t = (np.arange(teeth)[:, None] + np.array([-0.30, -0.17, 0.17, 0.30])) * 2 * np.pi / teeth
    r = np.broadcast_to([0.76, 1.0, 1.0, 0.76], t.shape)
    return np.stack([r * np.sin(t), -r * np.cos(t)], axis=-1).reshape(-1, 2).astype(np.float32)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3 / 16.5, (y - 2.4) / 15.5], axis=1).astype(np.float32)


def _drop() -> Points:
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return np.stack([0.86 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], axis=1).astype(np.float32)


def _both(points: Points) -> tuple[Points, Points]:
    """The part and its mirror image in x."""
    return points, points * np.array([-1, 1], np.float32)


_DISC = _ellipse(0, 0, 1, 1, 96)
_CRESCENT = np.concatenate([_arc(0, 0, 1, 52, 308), _arc(0.45, 0, 0.8, 282.5, 77.5)])
_BOLT = _points((0.2, -1), (-0.62, 0.16), (-0.1, 0.16), (-0.3, 1), (0.62, -0.28), (0.1, -0.28), (0.52, -1))
_ARROW = _points((1, 0), (0.12, -0.78), (0.12, -0.34), (-1, -0.34), (-1, 0.34), (0.12, 0.34), (0.12, 0.78))
_CROSS = _points(
    *((0.36, 1), (0.36, 0.36), (1, 0.36), (1, -0.36), (0.36, -0.36), (0.36, -1)),
    *((-0.36, -1), (-0.36, -0.36), (-1, -0.36), (-1, 0.36), (-0.36, 0.36), (-0.36, 1)),
)

SHAPES: dict[str, Shape] = {
    "star": Shape((_star(5, 0.5),)),
    "starfish": Shape((_polar(lambda t: 0.36 + 0.64 * (0.5 + 0.5 * np.cos(5 * t)) ** 1.2),)),
    "heart": Shape((_heart(),)),
    "gear": Shape((_gear(10),), (_ellipse(0, 0, 0.26, 0.26),)),
    "moon": Shape((_CRESCENT,)),
    "cross": Shape((_CROSS,)),
    "arrow": Shape((_ARROW,)),
    "key": Shape(
        (
            _ellipse(-0.56, 0, 0.44, 0.44),
            _points((-0.3, -0.13), (1, -0.13), (1, 0.13), (-0.3, 0.13)),
            _points((0.76, 0), (0.98, 0), (0.98, 0.46), (0.76, 0.46)),
            _points((0.42, 0), (0.62, 0), (0.62, 0.36), (0.42, 0.36)),
        ),
        (_ellipse(-0.62, 0, 0.2, 0.2),),
    ),
    "mushroom": Shape(
        (
            np.concatenate([_arc(0, 0.1, 1, 180, 360), _arc(0, 0.1, 1, 0, 180) * np.array([1, 0.3], np.float32)]),
            _points((-0.3, 0), (0.3, 0), (0.4, 0.8), (0.3, 0.98), (-0.3, 0.98), (-0.4, 0.8)),
        )
    ),
    "fish": Shape(
        (
            _ellipse(0.22, 0, 0.78, 0.5),
            _points((-0.42, 0), (-1, -0.52), (-0.84, 0), (-1, 0.52)),
            _points((0.35, -0.4), (-0.05, -0.78), (-0.25, -0.3)),
        )
    ),
    "leaf": Shape((_lens(0.86, 0.52), _points((-0.05, 0.7), (0.05, 0.7), (0.07, 1.08), (-0.03, 1.08)))),
    "house": Shape(
        (
            _points((-0.78, -0.1), (0.78, -0.1), (0.78, 0.92), (-0.78, 0.92)),
            _points((-1, -0.06), (0, -0.94), (1, -0.06)),
            _points((0.42, -0.3), (0.42, -0.9), (0.66, -0.9), (0.66, -0.3)),
        )
    ),
    "bolt": Shape((_BOLT,)),
    "drop": Shape((_drop(),)),
    "flower": Shape((_polar(lambda t: 0.62 + 0.38 * np.abs(np.cos(3 * t)) ** 0.6),)),
    "lifebuoy": Shape((_DISC,), (_ellipse(0, 0, 0.46, 0.46),)),
    "button": Shape((_DISC,), tuple(_ellipse(x, y, 0.13, 0.13) for x in (-0.24, 0.24) for y in (-0.24, 0.24))),
    "ladybird": Shape((_ellipse(0, 0.14, 0.82, 0.86), _ellipse(0, -0.72, 0.42, 0.32))),
    "orange": Shape((_DISC,)),
    "butterfly": Shape(
        (
            *_both(_ellipse(0.52, -0.38, 0.55, 0.44, tilt=-0.6)),
            *_both(_ellipse(0.42, 0.42, 0.42, 0.36, tilt=0.7)),
            _ellipse(0, 0, 0.11, 0.72),
        )
    ),
    "tree": Shape(
        (
            _points((0, -1), (0.5, -0.3), (-0.5, -0.3)),
            _points((0, -0.66), (0.68, 0.24), (-0.68, 0.24)),
            _points((0, -0.2), (0.86, 0.74), (-0.86, 0.74)),
            _points((-0.16, 0.7), (0.16, 0.7), (0.16, 1), (-0.16, 1)),
        )
    ),
    "rocket": Shape(
        (
            _lens(1.0, 0.4),
            *_both(_points((0.28, 0.2), (0.72, 0.62), (0.72, 0.98), (0.18, 0.7))),
        )
    ),
    "cup": Shape(
        (
            _ellipse(0.5, -0.02, 0.48, 0.46),
            _points((-0.9, -0.8), (0.46, -0.8), (0.36, 0.66), (0.22, 0.8), (-0.66, 0.8), (-0.8, 0.66)),
        ),
        (_ellipse(0.64, -0.02, 0.2, 0.24),),
    ),
    "melon": Shape((_arc(0, -0.42, 1, 0, 180),)),
}


def unit_area(shape: Shape) -> float:
    """Area of a shape in its box, counted on a grid of 200 x 200."""
    canvas = np.zeros((220, 220), np.uint8)
    for fill, polygons in ((1, shape.parts), (0, shape.holes)):
        for polygon in polygons:
            cv2.fillPoly(canvas, [np.round(polygon * 100 + 110).astype(np.int32)], fill)
    return float(canvas.sum()) / 100**2

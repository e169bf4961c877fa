"""Surfaces of the procedural classes: colours as a function of the place on the object.

Each takes x, y (float32 [h, w], the object's own coordinates, -1 to 1), `e` (one pixel in these coordinates,
for smooth edges) and three colours (float32 [3], RGB 0 to 1), and gives float32 RGB [h, w, 3].
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
Colours = tuple[Plane, Plane, Plane]
Surface = Callable[[Plane, Plane, float, Colours], Plane]


def over(base: Plane, top: Plane, distance: Plane, e: float) -> Plane:
    """`top` where `distance` is negative, `base` elsewhere, with an edge of about a pixel."""
    t: Plane = np.clip(0.5 - distance / (1.4 * e), 0, 1)[..., None]
    return base + t * (top - base)


def wave(value: Plane, frequency: float) -> Plane:
    """Signed distance, roughly, to stripes of equal widths along `value`, `frequency` of them per unit."""
    return np.asarray(np.sin(value * (np.pi * frequency)) / (np.pi * frequency), np.float32)


def blob(x: Plane, y: Plane, cx: float, cy: float, a: float, b: float | None = None) -> Plane:
    return np.asarray((np.hypot((x - cx) / a, (y - cy) / (b or a)) - 1) * min(a, b or a), np.float32)


def dots(x: Plane, y: Plane, pitch: float, radius: float) -> Plane:
    """Distance to dots in staggered rows."""
    row = np.round(y / pitch)
    shifted = x / pitch + 0.5 * (row % 2)
    return np.asarray(pitch * np.hypot(shifted - np.round(shifted), y / pitch - row) - radius, np.float32)


def _facets(n: int) -> Surface:
    def surface(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
        t = np.arctan2(x, -y) * (n / np.pi)
        side: Plane = np.abs(np.floor(t)) % 2
        return c[0] * (0.72 + 0.28 * side[..., None])

    return surface


def _dotted(pitch: float, radius: float) -> Surface:
    return lambda x, y, e, c: over(c[0], c[1], dots(x, y, pitch, radius), e)


def _rings(frequency: float) -> Surface:
    return lambda x, y, e, c: over(c[0], c[1], wave(np.hypot(x, y), frequency), e)


def _checker(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    return over(c[0], c[1], wave(x + 0.12, 4.2) * np.sign(wave(y + 0.12, 4.2)), e)


def _chevrons(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    return over(c[0], c[1], wave(x + 0.8 * np.abs(y), 4.0), e)


def _moon(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    out = np.broadcast_to(c[0], (*x.shape, 3))
    for cx, cy, r in ((-0.62, -0.28, 0.17), (-0.72, 0.2, 0.12), (-0.36, 0.56, 0.15), (-0.3, -0.72, 0.1)):
        out = over(out, c[1], blob(x, y, cx, cy, r), e)
    return out


def _brass(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    out = c[0] + (c[1] - c[0]) * np.clip(0.5 - 1.6 * y, 0, 1)[..., None]
    return over(out, c[2], np.abs(np.hypot(x + 0.6, y) - 0.33) - 0.035, e)


def _mushroom(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    cap = over(c[0], c[1], np.minimum(dots(x + 0.1, 1.1 * y - 0.1, 0.5, 0.14), 1), e)
    stem = over(c[2], 0.8 * c[2], wave(x, 14), e)
    rim = y - 0.1 - 0.3 * np.sqrt(np.clip(1 - x * x, 0, 1))
    return over(stem, over(cap, c[1], -(rim + 0.07), e), rim, e)


def _fish(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    row = np.round(x / 0.16)
    shifted = y / 0.24 + 0.5 * (row % 2)
    scale = np.hypot(x / 0.16 - row + 0.35, 1.25 * (shifted - np.round(shifted))) - 0.62
    out = over(c[1], c[0], 0.16 * scale, e)
    out = over(out, c[2], np.maximum(0.5 - x, np.hypot((x - 0.22) / 0.78, y / 0.5) - 1.1), e)
    out = over(out, c[2], x + 0.5, e)
    out = over(out, np.ones(3, np.float32), blob(x, y, 0.72, -0.12, 0.11), e)
    return over(out, np.full(3, 0.06, np.float32), blob(x, y, 0.74, -0.12, 0.06), e)


def _leaf(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    veins = np.abs(wave(y + 0.7 * np.abs(x), 5.0)) - 0.017
    return over(c[0], c[1], np.minimum(veins, np.abs(x) - 0.035), e)


def _house(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    row = np.round(y / 0.16)
    mortar = np.minimum(np.abs(wave(y + 0.08, 6.25)), np.abs(wave(x + 0.16 * (row % 2), 3.125)))
    wall = over(c[0], c[1], mortar - 0.018, e)
    for cx, cy, w, h in ((-0.36, 0.28, 0.2, 0.19), (0.34, 0.52, 0.2, 0.42)):
        box = np.maximum(np.abs(x - cx) - w, np.abs(y - cy) - h)
        pane = c[2] if cx > 0 else np.array([0.62, 0.82, 0.92], np.float32)
        wall = over(over(wall, c[1], box - 0.05, e), pane, box, e)
    tiles = over(c[2], 0.75 * c[2], wave(y, 9), e)
    return over(wall, tiles, np.maximum(y + 0.06, -(0.95 - np.abs(x) * 0.88 + y)), e)


def _bolt(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    t: Plane = np.clip(0.5 + 0.55 * y, 0, 1)[..., None]
    return c[0] + t * (c[1] - c[0])


def _drop(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    out = c[0] + np.clip(0.5 - 0.6 * y, 0, 1)[..., None] * (c[1] - c[0])
    shine = np.maximum(np.abs(np.hypot(x, y - 0.35) - 0.42) - 0.06, np.maximum(x + 0.1, 0.2 - y))
    return over(out, c[2], shine, e)


def _flower(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    r = np.hypot(x, y)
    petals = c[1] + np.clip(1.25 * r - 0.2, 0, 1)[..., None] * (c[0] - c[1])
    seam = np.abs(wave(np.arctan2(x, -y) - np.pi / 6, 3 / np.pi)) * r - 0.02
    disc = over(c[2], 0.7 * c[2], dots(x, y, 0.11, 0.032), e)
    return over(over(petals, 0.72 * c[0], seam, e), disc, r - 0.32, e)


def _sectors(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    r = np.hypot(x, y)
    return over(c[0], c[1], wave(np.arctan2(x, -y), 4 / np.pi) * r, e)


def _button(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    r = np.hypot(x, y)
    return over(over(c[0], c[1], np.abs(r - 0.76) - 0.07, e), c[2], np.maximum(np.abs(y) - 0.06, np.abs(x) - 0.2), e)


def _ladybird(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    spots = np.abs(x) - 0.035
    for cx, cy, r in ((0.42, -0.12, 0.17), (0.34, 0.42, 0.19), (0.66, 0.26, 0.1), (0.2, 0.76, 0.1)):
        spots = np.minimum(spots, blob(np.abs(x), y, cx, cy, r))
    head = over(c[1], c[2], blob(np.abs(x), y, 0.24, -0.78, 0.1), e)
    return over(over(c[0], c[1], spots, e), head, y + 0.5, e)


def _orange(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    r = np.hypot(x, y)
    spoke = np.abs(wave(np.arctan2(x, -y), 5 / np.pi)) * r - 0.028
    flesh = np.maximum(0.055 - r, np.maximum(r - 0.8, -spoke))
    return over(over(c[0], c[1], r - 0.88, e), c[2], flesh, e)


def _butterfly(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    u = np.abs(x)
    out = np.broadcast_to(c[0], (*x.shape, 3))
    for cx, cy, r in ((0.66, -0.46, 0.24), (0.5, 0.48, 0.18)):
        out = over(over(out, c[1], blob(u, y, cx, cy, r), e), c[2], blob(u, y, cx, cy, 0.5 * r), e)
    out = over(out, 0.6 * c[0], np.abs(y - 0.06 + 0.1 * u) - 0.025, e)
    return over(out, c[2] * 0.8, u - 0.1, e)


def _tree(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    zigzag = np.abs(wave(x, 5))
    out = over(c[0], c[1], wave(y + 1.2 * zigzag + 0.1, 4.4) + 0.02, e)
    return over(out, c[2], 0.74 - y, e)


def _rocket(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    hull = over(c[0], c[1], np.abs(y - 0.42) - 0.07, e)
    hull = over(over(hull, c[2], blob(x, y, 0, -0.14, 0.2), e), 0.5 * c[2] + 0.5, blob(x, y, 0, -0.14, 0.13), e)
    fins = np.minimum(0.4 * np.maximum(np.cos(np.clip(y, -1, 1) * (np.pi / 2)), 0) ** 0.8 - np.abs(x), 0.82 - y)
    return over(hull, c[1], np.minimum(fins, y + 0.52), e)


def _cup(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    bands = np.minimum(np.abs(y + 0.32) - 0.09, np.abs(y - 0.3) - 0.09)
    out = over(c[0], c[1], bands, e)
    out = over(out, c[1], np.maximum(np.abs(y) - 0.055, np.abs(wave(x, 3)) - 0.055), e)
    return over(out, c[2], np.minimum(y + 0.7, 0.44 - 0.07 * (y + 0.8) - x), e)


def _melon(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
    r = np.hypot(x, y + 0.42)
    seeds = np.minimum(np.abs(r - 0.32), np.abs(r - 0.62)) + 0.6 * np.abs(wave(np.arctan2(x, y + 0.42), 9 / np.pi)) * r
    flesh = over(c[0], np.full(3, 0.1, np.float32), seeds - 0.045, e)
    rind = over(c[1], 0.7 * c[1], wave(np.arctan2(x, y + 0.42), 30 / np.pi), e)
    return over(over(rind, c[2], r - 0.9, e), flesh, r - 0.83, e)


# Class -> surface and its three colours as hue (degrees), saturation, value.  Hues are shared on purpose:
# several red, green, yellow and blue classes, so that colour alone does not find the target.
SURFACES: dict[str, tuple[Surface, tuple[tuple[float, float, float], ...]]] = {
    "star": (_facets(5), ((46, 0.85, 1.0), (46, 0.5, 1.0), (46, 0.5, 1.0))),
    "starfish": (_dotted(0.26, 0.06), ((18, 0.78, 0.95), (34, 0.35, 1.0), (18, 0.8, 0.8))),
    "heart": (_dotted(0.38, 0.105), ((350, 0.78, 0.9), (350, 0.08, 1.0), (350, 0.8, 0.7))),
    "gear": (_rings(7.5), ((212, 0.18, 0.66), (212, 0.22, 0.5), (212, 0.2, 0.4))),
    "moon": (_moon, ((50, 0.38, 0.98), (44, 0.45, 0.8), (50, 0.4, 1.0))),
    "cross": (_checker, ((150, 0.75, 0.6), (140, 0.12, 0.97), (150, 0.7, 0.5))),
    "arrow": (_chevrons, ((222, 0.75, 0.85), (205, 0.22, 1.0), (222, 0.7, 0.6))),
    "key": (_brass, ((40, 0.75, 0.62), (46, 0.55, 0.95), (38, 0.8, 0.45))),
    "mushroom": (_mushroom, ((6, 0.85, 0.82), (42, 0.06, 0.98), (40, 0.18, 0.92))),
    "fish": (_fish, ((190, 0.7, 0.85), (200, 0.85, 0.5), (28, 0.75, 0.98))),
    "leaf": (_leaf, ((108, 0.7, 0.62), (84, 0.45, 0.9), (108, 0.7, 0.4))),
    "house": (_house, ((14, 0.5, 0.72), (36, 0.16, 0.93), (228, 0.4, 0.5))),
    "bolt": (_bolt, ((54, 0.75, 1.0), (28, 0.9, 1.0), (50, 0.8, 1.0))),
    "drop": (_drop, ((214, 0.9, 0.75), (192, 0.5, 1.0), (195, 0.06, 1.0))),
    "flower": (_flower, ((318, 0.6, 0.95), (330, 0.12, 1.0), (46, 0.85, 0.95))),
    "lifebuoy": (_sectors, ((4, 0.82, 0.9), (30, 0.04, 0.98), (0, 0.8, 0.8))),
    "button": (_button, ((276, 0.5, 0.72), (276, 0.55, 0.5), (276, 0.15, 0.95))),
    "ladybird": (_ladybird, ((2, 0.88, 0.86), (240, 0.15, 0.12), (40, 0.05, 0.95))),
    "orange": (_orange, ((28, 0.92, 0.98), (42, 0.2, 1.0), (32, 0.78, 1.0))),
    "butterfly": (_butterfly, ((266, 0.62, 0.82), (34, 0.7, 1.0), (250, 0.5, 0.22))),
    "tree": (_tree, ((140, 0.7, 0.42), (128, 0.55, 0.62), (26, 0.6, 0.45))),
    "rocket": (_rocket, ((210, 0.05, 0.95), (2, 0.82, 0.85), (212, 0.6, 0.6))),
    "cup": (_cup, ((178, 0.6, 0.72), (46, 0.12, 0.98), (178, 0.65, 0.55))),
    "melon": (_melon, ((352, 0.72, 0.92), (120, 0.6, 0.5), (80, 0.25, 0.95))),
}

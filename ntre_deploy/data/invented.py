"""Invented classes of objects: outlines and surfaces drawn at random, to learn from without the 24 named classes.

Twenty-four classes are too few to learn from: a network remembers them.  Here are as many as wanted, each a random
outline (blob, star, polygon, ring, body with limbs, ...) with a random surface (dots, stripes, rings, parts, ...) in
random colours.  None is one of the named classes, so every fold of those is new to a model that learned from these.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data._shapes import Points, Shape, unit_area
from ntre_deploy.data._surfaces import Colours, Plane, Surface, blob, dots, over, wave
from ntre_deploy.data.procedural import Kind, ProceduralDataset

CLASSES = 800
SCENES_PER_CLASS = 12

# keeps the stream of the classes apart from that of the scenes
_STREAM = 24
# outlines that fill less of their box than this would be mere lines
_LEAST_AREA = 0.7

Random = np.random.Generator
_ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)


def catalogue(seed: int, count: int = CLASSES) -> Sequence[Kind]:
    """`count` invented classes; class i of a seed is the same for every count."""
    return tuple(_kind(i, np.random.default_rng([seed, _STREAM, i])) for i in range(count))


def invented_scenes(seed: int) -> ProceduralDataset:
    """Scenes of `CLASSES` invented classes, `SCENES_PER_CLASS` with each as the target.

    Raises:
        InputError: `seed` is outside 0 to 2**32 - 1.
    """
    return ProceduralDataset(seed, SCENES_PER_CLASS * CLASSES, catalogue(seed), "invented")


def _kind(index: int, rng: Random) -> Kind:
    shape = _outline(rng)
    while (area := unit_area(shape)) < _LEAST_AREA:
        shape = _outline(rng)
    return Kind(f"invented-{index}", shape, area, _surface(rng), tuple(_colour(rng) for _ in range(3)))


def _colour(rng: Random) -> tuple[float, float, float]:
    # near grey, white and black once in a while, as objects are
    saturation = rng.uniform(0.02, 0.25) if rng.random() < 0.3 else rng.uniform(0.35, 0.95)
    value = rng.uniform(0.1, 0.4) if rng.random() < 0.15 else rng.uniform(0.5, 1.0)
    return float(rng.uniform(0, 360)), float(saturation), float(value)


def _outline(rng: Random) -> Shape:
    """A random outline that reaches the edge of the box from -1 to 1."""
    parts = [_body(rng)]
    holes: list[Points] = []
    if rng.random() < 0.35:
        parts += _limbs(rng)
    elif rng.random() < 0.25:
        place, radius = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.2, 0.42)
        holes.append(_round(rng, radius) + place.astype(np.float32))
    everything = np.concatenate(parts)
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, reach = (low + high) / 2, float((high - low).max() / 2)
    return Shape(tuple((p - middle) / reach for p in parts), tuple((h - middle) / reach for h in holes))


def _polar(radius: NDArray[np.float64], angles: NDArray[np.float64] = _ANGLES) -> Points:
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1).astype(np.float32)


def _round(rng: Random, radius: float) -> Points:
    stretch = np.array([1, rng.uniform(0.6, 1)], np.float32)
    return _polar(np.full(len(_ANGLES), radius)) * stretch


def _body(rng: Random) -> Points:
    form = int(rng.integers(6))
    if form == 0:  # a blob of a few waves
        waves = [rng.uniform(-1, 1) / k * np.cos(k * _ANGLES + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)]
        return _polar(np.clip(1 + 0.45 * np.sum(waves, axis=0), 0.35, None))
    if form == 1:  # a star or a toothed wheel
        n, inner = int(rng.integers(3, 11)), rng.uniform(0.4, 0.85)
        turn = np.arange(2 * n) * np.pi / n
        return _polar(np.where(np.arange(2 * n) % 2 == 0, 1.0, inner), turn)
    if form == 2:  # petals
        n, depth, sharp = int(rng.integers(2, 9)), rng.uniform(0.25, 0.6), rng.uniform(0.5, 1.5)
        return _polar(1 - depth + depth * np.abs(np.cos(n * _ANGLES / 2)) ** sharp)
    if form == 3:  # an uneven polygon
        n = int(rng.integers(3, 8))
        turn = (np.arange(n) + rng.uniform(-0.25, 0.25, n)) * 2 * np.pi / n
        return _polar(rng.uniform(0.7, 1.0, n), turn) * np.array([1, rng.uniform(0.6, 1)], np.float32)
    if form == 4:  # a superellipse: from a diamond over a disc to a box
        power = rng.uniform(0.6, 5)
        r = (np.abs(np.cos(_ANGLES)) ** power + np.abs(np.sin(_ANGLES)) ** power) ** (-1 / power)
        return _polar(r) * np.array([1, rng.uniform(0.5, 1)], np.float32)
    # a crescent or a kidney
    bite = rng.uniform(0.2, 0.75)
    return _polar(1 - bite * np.exp(-(((_ANGLES - np.pi) / rng.uniform(0.5, 1.1)) ** 2)))


def _limbs(rng: Random) -> list[Points]:
    """One part on a side, or two that mirror each other."""
    place = rng.uniform((0.35, -0.8), (0.95, 0.8)).astype(np.float32)
    size = rng.uniform(0.25, 0.6)
    form = _round(rng, size) if rng.random() < 0.5 else _polar(np.full(4, size), _ANGLES[::30] + rng.uniform(0, 1))
    limb: Points = form + place
    return [limb, limb * np.array([-1, 1], np.float32)] if rng.random() < 0.7 else [limb]


def _surface(rng: Random) -> Surface:
    """A pattern of the first two colours, often with a part or spots in the third."""
    pattern, detail = _pattern(rng), _detail(rng)

    def surface(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
        return detail(pattern(x, y, e, c), x, y, e, c[2])

    return surface


def _pattern(rng: Random) -> Surface:
    form = int(rng.integers(9))
    turn, pitch = rng.uniform(0, np.pi), float(rng.uniform(2.0, 6.0))
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    share = float(rng.uniform(-0.05, 0.05))
    n = int(rng.integers(2, 8))

    def surface(x: Plane, y: Plane, e: float, c: Colours) -> Plane:
        u, v = cos * x + sin * y, cos * y - sin * x
        if form == 0:
            return np.broadcast_to(c[0], (*x.shape, 3))
        if form == 1:
            distance = dots(u, v, 1.7 / pitch, (0.5 + 2 * share) / pitch)
        elif form == 2:
            distance = wave(u, pitch) + share
        elif form == 3:
            distance = wave(np.hypot(x, y), pitch) + share
        elif form == 4:
            distance = wave(u + 0.1, pitch) * np.sign(wave(v + 0.1, pitch))
        elif form == 5:
            distance = wave(u + 0.8 * np.abs(v), pitch) + share
        elif form == 6:
            distance = wave(np.arctan2(u, v), n / np.pi) * np.hypot(x, y)
        elif form == 7:
            distance = np.minimum(np.abs(wave(u, pitch / 2)), np.abs(wave(v, pitch / 2))) - 0.14 / pitch
        else:
            distance = wave(u + 0.12 * np.sin(n * v), pitch) + share
        return over(c[0], c[1], distance, e)

    return surface


def _detail(rng: Random) -> "_Detail":
    form, turn, reach = int(rng.integers(6)), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
    return _Detail(form, turn, reach, rng.uniform(-0.6, 0.6, (3, 2)))


class _Detail:
    """A part in the third colour: none, one side, a band, a middle, a rim or spots."""

    def __init__(self, form: int, turn: float, reach: float, places: NDArray[np.float64]) -> None:
        self.form, self.reach, self.places = form, reach, places
        self.cos, self.sin = float(np.cos(turn)), float(np.sin(turn))

    def __call__(self, base: Plane, x: Plane, y: Plane, e: float, colour: Plane) -> Plane:
        u = self.cos * x + self.sin * y
        if self.form == 0:
            return base
        if self.form == 1:
            return over(base, colour, self.reach - u, e)
        if self.form == 2:
            return over(base, colour, np.abs(u - 0.2) - self.reach / 2, e)
        if self.form == 3:
            return over(base, colour, np.hypot(x, y) - self.reach - 0.1, e)
        if self.form == 4:
            return over(base, colour, 0.95 - self.reach / 2 - np.hypot(x, y), e)
        for cx, cy in self.places:
            base = over(base, colour, blob(x, y, float(cx), float(cy), 0.1 + self.reach / 3), e)
        return base

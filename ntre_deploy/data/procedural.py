"""Rendered scenes for demos, tests and training without a download: 24 classes of objects on textured ground.

A class is an outline with a surface (a dotted heart, a brick house); its instances differ in size, rotation,
aspect, mirroring, hue and brightness.  Outlines and hues recur between classes, so that neither alone gives
the class away.  Another catalogue of classes gives scenes of the same kind with other objects (see `invented`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data._backgrounds import BACKGROUNDS, hsv
from ntre_deploy.data._shapes import SHAPES, Shape, unit_area
from ntre_deploy.data._surfaces import SURFACES, Surface
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, check_class
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels

CLASSES = tuple(SHAPES)
SCENES_PER_CLASS = 40

_LAYOUTS = 12
_SUBPIXEL_BITS = 4

Random = np.random.Generator
Plane = NDArray[np.float32]
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Kind:
    """A class of objects: `area` is that of the outline in its box, `colours` are hue (degrees), saturation, value."""

    name: str
    shape: Shape
    area: float
    surface: Surface
    colours: tuple[tuple[float, float, float], ...]


Catalogue = Sequence[Kind]

KINDS: Catalogue = tuple(Kind(name, shape, unit_area(shape), *SURFACES[name]) for name, shape in SHAPES.items())


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        image: uint8 RGB [H, W, 3].
        labels: uint16 [H, W], class id + 1 of the object that is seen at a pixel, 0 for the background.
        target: class id of the target; at least `MIN_TARGET_PIXELS` of it are seen.
    """

    image: Pixels
    labels: Labels
    target: int


@dataclass(frozen=True)
class _Object:
    """An instance in place: `alpha` is its anti-aliased cover (uint8) from `corner` (x, y) on."""

    kind: Kind
    matrix: NDArray[np.float64]
    centre: NDArray[np.float64]
    corner: tuple[int, int]
    alpha: Pixels

    @property
    def window(self) -> tuple[slice, slice]:
        x, y = self.corner
        return slice(y, y + self.alpha.shape[0]), slice(x, x + self.alpha.shape[1])


def target_of(index: int, catalogue: Catalogue = KINDS) -> int:
    """Class id of the target in scene `index`, known without rendering it."""
    return index % len(catalogue)


def render_scene(index: int, seed: int = 0, catalogue: Catalogue = KINDS) -> Scene:
    """Render scene `index` of a seed: one target, sometimes two, among 2 to 4 objects of other classes.

    The result depends on the two numbers alone and is the same, byte for byte, on every call (another
    processor, NumPy or OpenCV may round single pixels differently).

    Raises:
        InputError: `index` or `seed` is negative, or `seed` is not below 2**32.
    """
    if index < 0 or not 0 <= seed < 2**32:
        raise InputError(f"Scene {index} of seed {seed} does not exist; index >= 0 and 0 <= seed < 2**32 are expected.")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    width, height = int(rng.integers(288, 353)), int(rng.integers(216, 265))
    if rng.random() < 0.3:
        width, height = height, width
    target = target_of(index, catalogue)
    objects, labels = _arrange(rng, catalogue, target, height, width)
    canvas = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))](rng, height, width)
    light = rng.uniform(0, 2 * np.pi)
    light_xy = np.array([np.cos(light), np.sin(light)])
    for thing in objects:
        _shadow(canvas, thing, light_xy)
        _paint(rng, canvas, thing, light_xy)
    return Scene(_photograph(rng, canvas, light_xy), labels, target)


def _arrange(rng: Random, catalogue: Catalogue, target: int, height: int, width: int) -> tuple[list[_Object], Labels]:
    """Objects from back to front and their label map; the target is seen well enough."""
    others = np.delete(np.arange(len(catalogue)), target)
    for attempt in range(_LAYOUTS):
        classes = [target] * (2 if rng.random() < 0.12 else 1)
        classes += [int(c) for c in rng.choice(others, int(rng.integers(2, 5)), replace=False)]
        placed: list[_Object] = []
        circles: list[tuple[float, float, float]] = []
        for i, c in enumerate(classes):
            area = rng.uniform(3200, 11500) if i == 0 else rng.uniform(1300, 6500)
            placed.append(_place(rng, catalogue[c], area, height, width, circles))
        order = rng.permutation(len(placed))
        if attempt == _LAYOUTS - 1:
            # Nothing lies over the target in the last attempt, so that there is always a result
            order = np.append(order[order != 0], 0)
        labels = np.zeros((height, width), np.uint16)
        for k in order:
            labels[placed[k].window][placed[k].alpha >= 128] = classes[k] + 1
        needed = max(MIN_TARGET_PIXELS, 0.6 * np.count_nonzero(placed[0].alpha >= 128))
        if np.count_nonzero(labels == target + 1) >= needed:
            break
    return [placed[k] for k in order], labels


def _place(
    rng: Random,
    kind: Kind,
    area: float,
    height: int,
    width: int,
    circles: list[tuple[float, float, float]],
) -> _Object:
    """An instance of about `area` pixels, wholly inside, in the freest of a few places; notes its circle."""
    shape = kind.shape
    scale = min(np.sqrt(area / kind.area), 0.42 * min(height, width))
    aspect, turn = np.exp(rng.uniform(-0.14, 0.14)), rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.diag([scale * aspect * rng.choice([-1.0, 1.0]), scale / aspect])
    reach = np.abs(np.concatenate(shape.parts) @ matrix.T).max(axis=0) + 3
    size = np.array([width, height])
    low, high = np.minimum(reach, size / 2), np.maximum(size - reach, size / 2)
    tries = rng.uniform(low, high, (10, 2))
    radius = float(np.sqrt(area / np.pi)) + 0.25 * scale
    gaps = [min((np.hypot(*(t - (x, y))) - r for x, y, r in circles), default=0.0) for t in tries]
    # The first place with a gap and not the widest gap: some objects shall touch and overlap
    free = [i for i, gap in enumerate(gaps) if gap > 0.8 * radius]
    centre = tries[free[0] if free else int(np.argmax(gaps))]
    circles.append((float(centre[0]), float(centre[1]), radius))

    x0, y0 = (int(v) for v in np.maximum(np.floor(centre - reach), 0))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(centre + reach), size))
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for fill, polygons in ((255, shape.parts), (0, shape.holes)):
        for polygon in polygons:
            points = (polygon @ matrix.T + centre - (x0, y0)) * 2**_SUBPIXEL_BITS
            cv2.fillPoly(alpha, [np.round(points).astype(np.int32)], fill, cv2.LINE_AA, _SUBPIXEL_BITS)
    return _Object(kind, matrix, centre, (x0, y0), alpha)


def _shadow(canvas: Plane, thing: _Object, light: NDArray[np.float64]) -> None:
    """Darken the ground beside an object, away from the light."""
    rows, columns = thing.window
    pad = 14
    y0, x0 = max(rows.start - pad, 0), max(columns.start - pad, 0)
    region = canvas[y0 : rows.stop + pad, x0 : columns.stop + pad]
    move = np.array([[1, 0, columns.start - x0 - 6 * light[0]], [0, 1, rows.start - y0 - 6 * light[1]]])
    cover = cv2.warpAffine(thing.alpha, move, (region.shape[1], region.shape[0]))
    region *= 1 - np.float32(0.5 / 255) * cv2.GaussianBlur(cover, (0, 0), 3.0)[..., None]


def _paint(rng: Random, canvas: Plane, thing: _Object, light: NDArray[np.float64]) -> None:
    """Lay an object's surface, lit as if it were domed, over the canvas."""
    surface, colours = thing.kind.surface, thing.kind.colours
    hue, saturation, value = rng.uniform(-9, 9), rng.uniform(0.82, 1.12), rng.uniform(0.8, 1.05)
    a, b, c = (hsv(h + hue, min(s * saturation, 1), min(v * value, 1)) for h, s, v in colours)

    inverse = np.linalg.inv(thing.matrix).astype(np.float32)
    offset = (np.array(thing.corner) - thing.centre).astype(np.float32)
    px = np.arange(thing.alpha.shape[1], dtype=np.float32)[None] + offset[0]
    py = np.arange(thing.alpha.shape[0], dtype=np.float32)[:, None] + offset[1]
    scale = float(np.sqrt(abs(np.linalg.det(thing.matrix))))
    u, v = inverse[0, 0] * px + inverse[0, 1] * py, inverse[1, 0] * px + inverse[1, 1] * py
    colour = surface(u, v, 1 / scale, (a, b, c))

    depth = cv2.distanceTransform(thing.alpha // 128, cv2.DIST_L2, 5)
    dome = np.sqrt(np.minimum(depth / (0.22 * scale), 1))
    dome = cv2.GaussianBlur(dome, (0, 0), 1.2)
    slope = light[0] * cv2.Sobel(dome, cv2.CV_32F, 1, 0) + light[1] * cv2.Sobel(dome, cv2.CV_32F, 0, 1)
    shade = np.clip(0.98 - 0.32 * slope, 0.6, 1.3) * (0.72 + 0.28 * np.minimum(depth / 2.5, 1))

    region = canvas[thing.window]
    cover = (thing.alpha.astype(np.float32) / 255)[..., None]
    region += cover * (np.clip(colour * shade[..., None].astype(np.float32), 0, 1) - region)


def _photograph(rng: Random, canvas: Plane, light: NDArray[np.float64]) -> Pixels:
    """Uneven light, colour cast, slight blur and sensor noise; float32 RGB [H, W, 3] to uint8."""
    height, width = canvas.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    ramp = np.float32(light[0]) * x + np.float32(light[1]) * y[:, None]
    gain = rng.uniform(0.82, 1.1) * (1 + rng.uniform(0.02, 0.2) * ramp)
    canvas *= gain[..., None].astype(np.float32) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    if rng.random() < 0.35:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 0.9)), np.float32)
    noise = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(0.004, 0.025))
    return np.asarray(np.clip((canvas + noise[..., None]) * 255 + 0.5, 0, 255), np.uint8)


class ProceduralDataset:
    """`length` scenes of a seed; scene i has class i mod 24 as its target, and its id is the index as text.

    Distracting objects count in `mask`, but `images` lists a scene under its target alone.

    Args:
        catalogue: classes other than the 24, under the name `kind`.

    Raises:
        InputError: `seed` is outside 0 to 2**32 - 1 or `length` is below 1.
    """

    def __init__(
        self, seed: int = 0, length: int | None = None, catalogue: Catalogue = KINDS, kind: str = "procedural"
    ) -> None:
        length = SCENES_PER_CLASS * len(catalogue) if length is None else length
        if not 0 <= seed < 2**32 or length < 1:
            raise InputError(f"Seed {seed} with {length} scenes is not possible; 0 <= seed < 2**32, 1 scene or more.")
        self._length = length
        self._catalogue = catalogue
        self._name = f"{kind}:{seed}"
        self._class_names = MappingProxyType({i: kind.name for i, kind in enumerate(catalogue)})
        self._scene = lru_cache(maxsize=32)(partial(render_scene, seed=seed, catalogue=catalogue))

    @property
    def name(self) -> str:
        """Kind and seed, such as `procedural:0`."""
        return self._name

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> name of the object."""
        return self._class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the scenes with this target, in the order of their indices; renders nothing.

        Raises:
            InputError: there is no such class.
        """
        check_class(self.name, self._class_names, class_id)
        return tuple(str(index) for index in range(class_id, self._length, len(self._catalogue)))

    def image(self, image_id: str) -> Pixels:
        """The scene as uint8 RGB [H, W, 3]; the array is the caller's own.

        Raises:
            InputError: there is no such scene.
        """
        return self._scene(self._index(image_id)).image.copy()

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]: 1 on every seen pixel of the class (all its instances), 0 elsewhere; never 255.

        Raises:
            InputError: there is no such scene or class.
        """
        check_class(self.name, self._class_names, class_id)
        return np.asarray(self._scene(self._index(image_id)).labels == class_id + 1, np.uint8)

    def labels(self, image_id: str) -> Labels:
        """uint16 [H, W]: class id + 1 of the object that is seen at a pixel, 0 for the background.

        Raises:
            InputError: there is no such scene.
        """
        return self._scene(self._index(image_id)).labels.copy()

    def _index(self, image_id: str) -> int:
        known = image_id.isascii() and image_id.isdecimal() and len(image_id) < 10 and str(int(image_id)) == image_id
        if not known or int(image_id) >= self._length:
            raise InputError(f"{self.name} has no scene '{image_id}'; its scenes are 0 to {self._length - 1}.")
        return int(image_id)

"""Background textures of the procedural scenes: float32 RGB [H, W, 3], 0 to 1."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Random = np.random.Generator


def smooth_noise(rng: Random, height: int, width: int, cell: float, stretch: float = 1.0) -> Plane:
    """Noise [H, W] around 0, about -1 to 1, with features of `cell` pixels; `stretch` lengthens them in x."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / (cell * stretch)) + 1)
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _octaves(rng: Random, height: int, width: int, cell: float) -> Plane:
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        total += smooth_noise(rng, height, width, cell / 2**octave) * np.float32(0.55 * 0.55**octave)
    return total


def hsv(hue: float, saturation: float, value: float) -> Plane:
    """RGB [3] of a colour; hue in degrees, any number of turns."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return np.asarray(value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)), np.float32)


def _pair(rng: Random, contrast: float = 0.18) -> tuple[Plane, Plane]:
    """Two muted colours of one family: the objects stand out, but are not the only colour there is."""
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.08, 0.4), rng.uniform(0.45, 0.8)
    return hsv(hue, saturation, value), hsv(hue + rng.uniform(-25, 25), saturation, value + contrast)


def _mix(a: Plane, b: Plane, t: Plane) -> Plane:
    return np.asarray(a + np.clip(t, 0, 1)[..., None] * (b - a), np.float32)


def _gradient(rng: Random, height: int, width: int) -> Plane:
    a, b = _pair(rng, 0.25)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * np.linspace(-0.5, 0.5, width) + np.sin(angle) * np.linspace(-0.5, 0.5, height)[:, None]
    return _mix(a, b, ramp.astype(np.float32) + 0.5 + 0.12 * smooth_noise(rng, height, width, 14))


def _wood(rng: Random, height: int, width: int) -> Plane:
    a, b = (
        hsv(rng.uniform(20, 36), 0.55, rng.uniform(0.4, 0.6)),
        hsv(rng.uniform(26, 38), 0.42, rng.uniform(0.66, 0.84)),
    )
    plank = rng.integers(38, 70)
    board = np.arange(height) // plank
    tone = rng.uniform(-0.22, 0.22, board[-1] + 1).astype(np.float32)[board][:, None]
    shift = rng.uniform(0, 60, board[-1] + 1).astype(np.float32)[board][:, None]
    warp = smooth_noise(rng, height, width, 26, 5)
    grain = np.sin(np.arange(height, dtype=np.float32)[:, None] * 0.62 + shift + 5 * warp)
    fine = smooth_noise(rng, height, width, 1.6, 16)
    seam = 1 - 0.5 * (np.arange(height) % plank < 2).astype(np.float32)[:, None, None]
    return _mix(a, b, 0.5 + 0.24 * grain + 0.26 * fine + tone) * seam


def _tiles(rng: Random, height: int, width: int) -> Plane:
    a, b = _pair(rng)
    size = int(rng.integers(30, 58))
    y, x = np.arange(height), np.arange(width)
    tone = rng.uniform(0, 1, (height // size + 1, width // size + 1)).astype(np.float32)
    if rng.random() < 0.5:
        tone = 0.3 * tone + 0.7 * (np.indices(tone.shape).sum(0) % 2).astype(np.float32)
    glaze = 0.15 * smooth_noise(rng, height, width, 18)
    joint = ((y % size < 2)[:, None] | (x % size < 2)).astype(np.float32)
    return _mix(_mix(a, b, tone[y // size][:, x // size] + glaze), 0.72 * a, joint)


def _clouds(rng: Random, height: int, width: int) -> Plane:
    a, b = _pair(rng, 0.28)
    return _mix(a, b, 0.5 + _octaves(rng, height, width, rng.uniform(50, 100)))


def _gravel(rng: Random, height: int, width: int) -> Plane:
    a, b = _pair(rng, 0.2)
    cell = int(rng.integers(9, 17))
    seeds = np.full((height, width), 255, np.uint8)
    gy, gx = np.mgrid[0:height:cell, 0:width:cell]
    gy = np.minimum(gy + rng.integers(0, cell, gy.shape), height - 1)
    gx = np.minimum(gx + rng.integers(0, cell, gx.shape), width - 1)
    seeds[gy, gx] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tone = rng.uniform(0, 1, int(label.max()) + 1).astype(np.float32)[label]
    dome = np.clip(1.12 - (distance / (0.85 * cell)) ** 2 * 0.5, 0.45, 1.1)
    return np.asarray(_mix(a, b, tone) * dome[..., None], np.float32)


def _cloth(rng: Random, height: int, width: int) -> Plane:
    a, b = _pair(rng, 0.14)
    pitch = rng.uniform(14, 30)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    thread = 0.3 * np.sin(x * 2.1) * np.sin(y * 2.1)
    plaid = (np.sin(x * (np.pi / pitch)) > 0.35).astype(np.float32) + (np.sin(y * (np.pi / pitch)) > 0.35)
    return _mix(a, b, np.float32(0.4) * plaid + thread + 0.15 * smooth_noise(rng, height, width, 30))


def _grass(rng: Random, height: int, width: int) -> Plane:
    hue = rng.uniform(75, 125)
    blades = smooth_noise(rng, width, height, 2.2, 4).T + 0.6 * smooth_noise(rng, height, width, 4)
    low = 0.35 * smooth_noise(rng, height, width, 60)
    return _mix(hsv(hue, 0.5, 0.34), hsv(hue - 14, 0.48, 0.66), 0.5 + 0.4 * blades + low)


BACKGROUNDS: tuple[Callable[[Random, int, int], Plane], ...] = (
    _gradient,
    _wood,
    _tiles,
    _clouds,
    _gravel,
    _cloth,
    _grass,
)

"""What a kit shows: rendered objects for supports and queries, and images of sizes that go wrong elsewhere."""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from ntre_deploy.conformance.netpbm import Pixels
from ntre_deploy.data.procedural import CLASSES, render_scene

# classes of the supports, and how many shots each has
SHOTS: Mapping[str, int] = {"star": 1, "heart": 3, "moon": 2}
# longest side of a scene: half of what is rendered, so that a kit stays small
_LONGEST = 180
_BORDER = 15
# prime, so that no repetition falls on a multiple of anything
_TEXTURE = (61, 97)


class Shown(NamedTuple):
    """A scene: uint8 RGB [H, W, 3], and uint8 [H, W] of 0, 1 on its target and 255 around it."""

    image: Pixels
    mask: Pixels


def scene(name: str, instance: int, seed: int, *, longest: int = _LONGEST) -> Shown:
    """An object of a class; another `instance` is another picture of it.

    Args:
        longest: pixels of the longer side.
    """
    found = render_scene(CLASSES.index(name) + instance * len(CLASSES), seed)
    target = (found.labels == found.target + 1).astype(np.uint8)
    factor = longest / max(target.shape)
    size = (round(target.shape[1] * factor), round(target.shape[0] * factor))
    mask = cv2.resize(target, size, interpolation=cv2.INTER_NEAREST_EXACT)
    # as annotators leave a border that nobody has to be right about, and wide enough to be seen by a small network
    around = cv2.dilate(mask, np.ones((_BORDER, _BORDER), np.uint8)) - mask
    mask[around > 0] = 255
    return Shown(np.asarray(cv2.resize(found.image, size, interpolation=cv2.INTER_AREA), np.uint8), mask)


def texture(seed: int) -> tuple[Pixels, Pixels]:
    """Noise that no interpolation gets right by luck: uint8 RGB [h, w, 3], and a mask [h, w] of 0, 1 and 255."""
    rng = np.random.default_rng([seed, 1])
    pixels = rng.integers(0, 256, (*_TEXTURE, 3), np.uint8)
    blobs = cv2.GaussianBlur(rng.random(_TEXTURE), (0, 0), 3)
    mask = (blobs > np.median(blobs)).astype(np.uint8)
    mask[blobs > np.quantile(blobs, 0.9)] = 255
    # a tile of one pixel has to show something
    mask[0, 0] = 1
    return pixels, mask


def grey(pixels: Pixels) -> Pixels:
    """RGB [H, W, 3] whose channels are all the first one's: a grey photo as a decoder gives it."""
    return np.repeat(pixels[..., :1], 3, axis=2)


def odd_sizes(size: int) -> dict[str, tuple[int, int]]:
    """Heights and widths by name, for a network of `size` x `size` pixels."""
    return {
        "1x1": (1, 1),
        "2x2": (2, 2),
        "5-high": (5, 1),
        "5-wide": (1, 5),
        # half of an odd number: rounded to the even one
        "half": (1, 2),
        "1000-wide": (3, 1000),
        "1000-high": (1000, 3),
        # what OpenCV addresses at most
        "32767-wide": (1, 32_767),
        "of-the-network": (size, size),
        "one-less": (size - 1, size),
        "one-more": (size + 1, size - 3),
        # where sampling becomes averaging
        "twice": (2 * size, 2 * size),
        "twice-and-one": (2 * size + 1, size),
        "whole-factor": (size, 3 * size),
        "portrait": (640, 427),
        "landscape": (427, 640),
        "photo": (3000, 4000),
    }

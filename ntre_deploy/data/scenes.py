"""New scenes from a few labelled photos: crops, colours, and objects cut out of one photo and pasted onto another.

Copy-paste (Ghiasi et al., CVPR 2021) makes thousands of scenes of the objects at hand, so that what is learned from a
few hundred photos does not lean on where in them things stand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.runtime.imagefile import Pixels

# a cut-out of fewer pixels shows nothing
_CUT = 2500
_LEAST_SIDE = 16
_TRIES = 20
_PASTES = (0.45, 0.35, 0.2)


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo with everything that is known of it.

    Attributes:
        image_id: of the dataset.
        image: uint8 RGB [H, W, 3].
        masks: uint8 [N, H, W], one of each class: 1 on it, 255 to be ignored.  Apart from each other, so that what is
            known of a class that must not be learned from cuts no hole into another.
        classes: class ids [N].
    """

    image_id: str
    image: Pixels
    masks: Pixels
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """A `LabelledPhoto` that was changed; `pasted` are the classes of the objects that came from other photos."""

    image_id: str
    image: Pixels
    masks: Pixels
    classes: tuple[int, ...]
    pasted: frozenset[int]


def labelled_photos(dataset: Dataset, classes: Iterable[int]) -> list[LabelledPhoto]:
    """All photos that show one of the classes, each once, in the order of their ids.

    Raises:
        InputError: a photo or a mask cannot be read.
    """
    holders: dict[str, list[int]] = {}
    for c in sorted(classes):
        for image_id in dataset.images(c):
            holders.setdefault(image_id, []).append(c)
    found = []
    for image_id, own in sorted(holders.items()):
        masks = np.stack([dataset.mask(image_id, c) for c in own])
        found.append(LabelledPhoto(image_id, dataset.image(image_id), masks, tuple(own)))
    return found


def compose(photos: Sequence[LabelledPhoto], index: int, rng: np.random.Generator, *, plain: bool = False) -> Scene:
    """A scene from the photo `index`; `plain` takes it as it is.

    Everything random comes from `rng`: equal states give equal scenes.
    """
    photo = photos[index]
    if plain:
        return Scene(photo.image_id, photo.image, photo.masks, photo.classes, frozenset())
    image, masks = _cropped(photo.image, photo.masks, rng)
    classes, pasted = list(photo.classes), []
    for _ in range(int(rng.choice(len(_PASTES), p=_PASTES))):
        for _ in range(_TRIES):
            source = photos[int(rng.integers(len(photos)))]
            c = int(rng.integers(len(source.classes)))
            own = _paste(image, masks, source, c, rng)
            if own is not None:
                masks = np.concatenate([masks, own[None]])
                classes.append(source.classes[c])
                pasted.append(source.classes[c])
                break
    return Scene(photo.image_id, _coloured(image, rng), masks, tuple(classes), frozenset(pasted))


def _cropped(image: Pixels, masks: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    height, width = image.shape[:2]
    share = rng.uniform(0.45, 1.0) ** 0.7 if rng.random() < 0.7 else 1.0
    h, w = (max(1, int(side * min(1.0, share * rng.uniform(0.85, 1.15)))) for side in (height, width))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image, masks = image[y : y + h, x : x + w], masks[:, y : y + h, x : x + w]
    if rng.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    return image.copy(), masks.copy()


def _paste(image: Pixels, masks: Pixels, source: LabelledPhoto, which: int, rng: np.random.Generator) -> Pixels | None:
    """Put one connected region of a mask of `source` somewhere into a scene, in place; None where it does not fit.

    Returns:
        uint8 [H, W]: 1 where it is seen.
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats((source.masks[which] == 1).astype(np.uint8))
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= _CUT]
    if not large:
        return None
    k = large[int(rng.integers(len(large)))]
    left, top, w, h = (int(stats[k, i]) for i in range(4))
    height, width = image.shape[:2]
    factor = min(2.0, rng.uniform(0.2, 0.75) * max(height, width) / max(w, h))
    size = (max(8, int(w * factor)), max(8, int(h * factor)))
    if size[0] > 1.2 * width or size[1] > 1.2 * height:
        return None
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    window = slice(top, top + h), slice(left, left + w)
    cut = np.asarray(cv2.resize(source.image[window], size, interpolation=method), np.uint8)
    alpha = np.asarray(cv2.resize((regions[window] == k).astype(np.float32), size), np.float32)
    if rng.random() < 0.5:
        cut, alpha = cut[:, ::-1], alpha[:, ::-1]
    # up to a fifth of it may lie outside
    y = int(rng.integers(-size[1] // 5, max(1, height - size[1] * 4 // 5)))
    x = int(rng.integers(-size[0] // 5, max(1, width - size[0] * 4 // 5)))
    y0, x0, y1, x1 = max(0, y), max(0, x), min(height, y + size[1]), min(width, x + size[0])
    if y1 - y0 < _LEAST_SIDE or x1 - x0 < _LEAST_SIDE:
        return None
    cut, alpha = cut[y0 - y : y1 - y, x0 - x : x1 - x], alpha[y0 - y : y1 - y, x0 - x : x1 - x]
    target = slice(y0, y1), slice(x0, x1)
    mixed: NDArray[np.float32] = alpha[..., None] * cut + (1 - alpha[..., None]) * image[target]
    image[target] = mixed.astype(np.uint8)
    covered = alpha > 0.5
    masks[:, y0:y1, x0:x1][:, covered] = 0
    seen = np.zeros((height, width), np.uint8)
    seen[target] = covered
    return seen


def _coloured(image: Pixels, rng: np.random.Generator) -> Pixels:
    x = image.astype(np.float32)
    if rng.random() < 0.8:
        x *= rng.uniform(0.75, 1.25)
        x = (x - x.mean()) * rng.uniform(0.7, 1.3) + x.mean()
        grey = x.mean(2, keepdims=True)
        x = grey + (x - grey) * rng.uniform(0.5, 1.5)
        x *= rng.uniform(0.92, 1.08, 3).astype(np.float32)
    if rng.random() < 0.1:
        x = np.repeat(x.mean(2, keepdims=True), 3, 2)
    return np.clip(x, 0, 255).astype(np.uint8)

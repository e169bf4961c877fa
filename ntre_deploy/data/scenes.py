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
from ntre_deploy.data.images import Pixels

IGNORE = 255
# as many classes in one photo as labels of 8 bits hold beside 0 and `IGNORE`
_MOST = 254
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
        labels: uint8 [H, W]: 0 for none, n for the n-th of `classes`, 255 to be ignored.
        classes: class ids.
    """

    image_id: str
    image: Pixels
    labels: Pixels
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """A `LabelledPhoto` that was changed; `pasted` are the classes of the objects that came from other photos."""

    image_id: str
    image: Pixels
    labels: Pixels
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
        image = dataset.image(image_id)
        masks = [dataset.mask(image_id, c) for c in own[:_MOST]]
        labels = np.zeros(image.shape[:2], np.uint8)
        # small things lie in front of large ones
        order = sorted(range(len(masks)), key=lambda k: -int(np.count_nonzero(masks[k] == 1)))
        for k in order:
            labels[(masks[k] == IGNORE) & (labels == 0)] = IGNORE
            labels[masks[k] == 1] = k + 1
        found.append(LabelledPhoto(image_id, image, labels, tuple(own[:_MOST])))
    return found


def compose(photos: Sequence[LabelledPhoto], index: int, rng: np.random.Generator, *, plain: bool = False) -> Scene:
    """A scene from the photo `index`; `plain` takes it as it is.

    Everything random comes from `rng`: equal states give equal scenes.
    """
    photo = photos[index]
    if plain:
        return Scene(photo.image_id, photo.image, photo.labels, photo.classes, frozenset())
    image, labels = _cropped(photo.image, photo.labels, rng)
    classes, pasted = list(photo.classes), []
    for _ in range(int(rng.choice(len(_PASTES), p=_PASTES))):
        for _ in range(_TRIES):
            if len(classes) == _MOST:
                break
            source = photos[int(rng.integers(len(photos)))]
            c = int(rng.integers(len(source.classes)))
            if _paste(image, labels, source, c + 1, len(classes) + 1, rng):
                classes.append(source.classes[c])
                pasted.append(source.classes[c])
                break
    return Scene(photo.image_id, _coloured(image, rng), labels, tuple(classes), frozenset(pasted))


def _cropped(image: Pixels, labels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    height, width = labels.shape
    share = rng.uniform(0.45, 1.0) ** 0.7 if rng.random() < 0.7 else 1.0
    h, w = (max(1, int(side * min(1.0, share * rng.uniform(0.85, 1.15)))) for side in (height, width))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image, labels = image[y : y + h, x : x + w], labels[y : y + h, x : x + w]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return image.copy(), labels.copy()


def _paste(
    image: Pixels, labels: Pixels, source: LabelledPhoto, label: int, number: int, rng: np.random.Generator
) -> bool:
    """Put one connected region of a label of `source` somewhere into a scene, in place; False where it does not fit."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats((source.labels == label).astype(np.uint8))
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= _CUT]
    if not large:
        return False
    k = large[int(rng.integers(len(large)))]
    left, top, w, h = (int(stats[k, i]) for i in range(4))
    height, width = labels.shape
    factor = min(2.0, rng.uniform(0.2, 0.75) * max(height, width) / max(w, h))
    size = (max(8, int(w * factor)), max(8, int(h * factor)))
    if size[0] > 1.2 * width or size[1] > 1.2 * height:
        return False
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
        return False
    cut, alpha = cut[y0 - y : y1 - y, x0 - x : x1 - x], alpha[y0 - y : y1 - y, x0 - x : x1 - x]
    target = slice(y0, y1), slice(x0, x1)
    mixed: NDArray[np.float32] = alpha[..., None] * cut + (1 - alpha[..., None]) * image[target]
    image[target] = mixed.astype(np.uint8)
    labels[target][alpha > 0.5] = number
    return True


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

"""Which photos a tune learns from, and which it is judged by: photos are held out, not classes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, Dataset
from ntre_deploy.errors import InputError

# all photos and their features stay in memory
MOST = 2000
# a support and a query to learn from, and one photo to be judged by
LEAST = 3
# from here on the figures begin to mean something
ENOUGH = 5
_SHARE = 0.3


@dataclass(frozen=True)
class PhotoSplit:
    """Ids of photos for each class that can be tuned on.

    Attributes:
        learn, held_out: class id -> ids, sorted; no photo is in both, whatever its classes.
        left_out: class id -> number of photos, of the classes with fewer than `LEAST`.
    """

    learn: dict[int, list[str]]
    held_out: dict[int, list[str]]
    left_out: dict[int, int]

    @property
    def learned(self) -> set[str]:
        """Ids of all photos to learn from."""
        return {image for images in self.learn.values() for image in images}


def split_photos(dataset: Dataset, seed: int = 0) -> PhotoSplit:
    """Hold out three photos of ten of each class, one at least, and leave two at least to learn from.

    A photo that several classes show, or that stands in the folders of several, goes to one side as a whole.

    Raises:
        InputError: fewer than two classes have `LEAST` photos (with one class, nothing tells it from anything else), or
            there are more than `MOST`.
    """
    images = {c: list(dataset.images(c)) for c in dataset.class_names}
    usable = {c: found for c, found in images.items() if len(found) >= LEAST}
    left_out = {c: len(found) for c, found in images.items() if c not in usable}
    names = dataset.class_names
    if len(usable) < 2:
        shown = ", ".join(f"'{names[c]}' {len(found)}" for c, found in list(images.items())[:6])
        raise InputError(
            f"{dataset.name} cannot be tuned on: it needs two classes or more with {LEAST} photos each ({ENOUGH} are "
            f"better) whose masks hold {MIN_TARGET_PIXELS} pixels of the target or more; it has {shown or 'none'}."
        )
    count = len({image for found in usable.values() for image in found})
    if count > MOST:
        raise InputError(f"{dataset.name} has {count} photos; a tune takes at most {MOST}: give it a part of them.")
    groups = _same_photos(dataset, usable)
    members: dict[str, list[tuple[int, str]]] = {}
    for c, found in usable.items():
        for image in found:
            members.setdefault(groups[image], []).append((c, image))
    held: dict[int, list[str]] = {c: [] for c in usable}
    wanted = {c: max(1, round(_SHARE * len(found))) for c, found in usable.items()}
    order = [sorted(members)[k] for k in np.random.default_rng(seed).permutation(len(members))]
    # the second time, a photo may put one class over its share so that another has any
    for strict in (True, False):
        for key in order:
            photo = members[key]
            if all(image in held[c] for c, image in photo):
                continue
            copies = Counter(c for c, _ in photo)
            fits = all(len(usable[c]) - len(held[c]) - n >= 2 for c, n in copies.items())
            due = [len(held[c]) < wanted[c] if strict else not held[c] for c in copies]
            if fits and (all(due) if strict else any(due)):
                for c, image in photo:
                    held[c].append(image)
    return PhotoSplit(
        learn={c: sorted(set(found) - set(held[c])) for c, found in usable.items()},
        held_out={c: sorted(found) for c, found in held.items() if found},
        left_out=left_out,
    )


def _same_photos(dataset: Dataset, usable: Mapping[int, Sequence[str]]) -> dict[str, str]:
    """Image id -> what all copies of that photo share."""
    found: dict[str, str] = {}
    for images in usable.values():
        for image in images:
            if image not in found:
                pixels = dataset.image(image)
                found[image] = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return found

"""What is asked again and again: photos of many sizes, support memories, and pairs of a photo and some memories."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, sample_episodes, usable_classes
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Pixels = NDArray[np.uint8]

# memories have so many annotated images, one after the other
SHOTS = (1, 2, 3)
MOST_CLASSES = 4


class Pair(NamedTuple):
    """A photo and the memories that it is asked for, in their order, by number."""

    photo: int
    memories: tuple[int, ...]


@dataclass(frozen=True)
class Material:
    """All that a run asks for.

    Attributes:
        photos: uint8 RGB [H, W, 3], each of another size.
        memories: of the model that is asked.
        pairs: what is asked; no two are equal.
    """

    photos: list[Pixels]
    memories: list[SupportMemory]
    pairs: list[Pair]

    def ask(self, segmenter: Any, pair: int) -> Pixels:
        """Labels uint8 [H, W] of a pair, given by its number."""
        photo, memories = self.pairs[pair]
        found: Pixels = segmenter.segment(self.photos[photo], [self.memories[m] for m in memories])
        return found

    def heaviest(self, count: int) -> list[int]:
        """Numbers of `count` pairs that take the most memory: by support keys and by pixels to label, in turn."""
        keys = [sum(k.shape[1] for m in p.memories for k in self.memories[m].keys) for p in self.pairs]
        pixels = [len(p.memories) * self.photos[p.photo].size for p in self.pairs]
        ranked = [sorted(range(len(self.pairs)), key=cost.__getitem__, reverse=True) for cost in (keys, pixels)]
        return [pair for both in zip(*ranked, strict=True) for pair in both][:count]


def draw_photos(dataset: Dataset, count: int, sides: tuple[int, int], seed: int) -> list[Pixels]:
    """Photos of the dataset, uint8 RGB [H, W, 3], scaled to random heights and widths of so many pixels.

    Raises:
        InputError: the sides are no range.
    """
    if not 1 <= sides[0] <= sides[1]:
        raise InputError(f"Sides from {sides[0]} to {sides[1]} pixels cannot be drawn; give the smaller one first.")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    photos = []
    for episode in _episodes(dataset, 1, count, seed):
        height, width = rng.integers(sides[0], sides[1] + 1, 2).tolist()
        photos.append(np.asarray(cv2.resize(dataset.image(episode.query), (width, height)), np.uint8))
    return photos


def encode_memories(segmenter: Segmenter, dataset: Dataset, count: int, seed: int) -> list[SupportMemory]:
    """Memories of the dataset's classes, of 1, 2, 3, 1, 2, ... annotated images each."""
    drawn = {shots: _episodes(dataset, shots, count, seed) for shots in SHOTS}
    memories = []
    for number in range(count):
        e = drawn[SHOTS[number % len(SHOTS)]][number]
        shots = [(dataset.image(i), dataset.mask(i, e.class_id)) for i in e.supports]
        memories.append(segmenter.encode_episode(shots, e.class_name))
    return memories


def draw_pairs(photos: int, memories: int, count: int, seed: int) -> list[Pair]:
    """Different pairs of a photo and one to four memories; fewer than `count` where so many cannot be found."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    found: dict[Pair, None] = {}
    # tries, because a few photos and memories have few pairs
    for _ in range(4 * count):
        classes = int(rng.integers(1, min(MOST_CLASSES, memories) + 1))
        found[Pair(int(rng.integers(photos)), tuple(rng.permutation(memories)[:classes].tolist()))] = None
        if len(found) == count:
            break
    return list(found)


def digest(labels: Pixels) -> str:
    """Hexadecimal SHA-256 over size, type and values of a label map."""
    return hashlib.sha256(f"{labels.dtype} {labels.shape}".encode() + labels.tobytes()).hexdigest()


def _episodes(dataset: Dataset, shots: int, count: int, seed: int) -> tuple[Episode, ...]:
    classes = usable_classes(dataset, dataset.class_names, shots)
    return sample_episodes(dataset, classes, shots, count, seed).episodes

"""A bundle's reference set as the bench's episodes, and PyTorch's stored results in the place of PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.reference import ReferenceSet, picture_id

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# what `--dataset` calls it, and how reports name PyTorch's part in it
SPEC = "reference"
STORED = "pytorch stored"


class ReferenceDataset:
    """The pictures of a reference set as a `Dataset`; those of an image are named by their content."""

    def __init__(self, reference: ReferenceSet) -> None:
        self.name = f"{SPEC}:{reference.dataset}"
        self.class_names: Mapping[int, str] = {e.class_id: e.class_name for e in reference.episodes}
        self._images: dict[str, Pixels] = {}
        self._masks: dict[tuple[str, int], Pixels] = {}
        episodes = []
        for episode in reference.episodes:
            pairs = [(episode.query, episode.truth), *episode.supports]
            query, *supports = [self._keep(episode.class_id, *pair) for pair in pairs]
            episodes.append(Episode(episode.class_id, episode.class_name, query, tuple(supports)))
        self.episodes = EpisodeSet(self.name, "all", None, reference.shots, reference.seed, tuple(episodes))

    def _keep(self, class_id: int, image: Pixels, mask: Pixels) -> str:
        name = picture_id(image)
        self._images[name], self._masks[name, class_id] = image, mask
        return name

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images that have a mask of the class, sorted."""
        return sorted(image for image, c in self._masks if c == class_id)

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [H, W, 3]."""
        return self._images[image_id]

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]: 1 on the class, 0 elsewhere, 255 where pixels are to be ignored."""
        return self._masks[image_id, class_id]


@dataclass(frozen=True)
class Reference:
    """The episodes that bundles share, and what is stored for each of them.

    Attributes:
        dataset: has their pictures, and `episodes`.
        stored: for each model's id, PyTorch's logits [1, 2, h, w] and label maps [H, W], one after the other.
    """

    dataset: ReferenceDataset
    stored: Mapping[str, Sequence[tuple[Float, Pixels]]]


def open_reference(bundles: Mapping[str, Bundle]) -> Reference | str:
    """The reference set of some bundles; a text says why they cannot be measured on one.

    Raises:
        InputError: a set is damaged.
    """
    datasets: list[ReferenceDataset] = []
    stored: dict[str, Sequence[tuple[Float, Pixels]]] = {}
    for bundle in bundles.values():
        found = bundle.reference()
        if found is None:
            return f"{bundle.folder} holds no reference set, as `ntre export` stores one by --reference"
        datasets.append(ReferenceDataset(found))
        stored[bundle.manifest.model.id] = [(e.logits[None], e.labels) for e in found.episodes]
    if len({dataset.episodes.hash for dataset in datasets}) > 1:
        return "the reference sets of these bundles are of different pictures"
    return Reference(datasets[0], stored)


def demand_reference(bundles: Mapping[str, Bundle]) -> Reference:
    """As `open_reference`, where nothing else will do.

    Raises:
        InputError: there is none.
    """
    found = open_reference(bundles)
    if isinstance(found, str):
        raise InputError(f"--dataset {SPEC} cannot be used: {found}; take another dataset, or export again.")
    return found

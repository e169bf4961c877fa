"""A dataset whose decoded images and masks stay in memory."""

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset, DatasetView, labelled
from ntre_deploy.runtime.imagefile import Pixels


class CachedDataset(DatasetView):
    """Decodes or renders every image once: for datasets that fit into memory and are read again and again.

    The arrays are shared between calls and must not be written to; each process keeps its own.
    """

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._images: dict[str, Pixels] = {}
        self._labels: dict[str, NDArray[np.uint16]] = {}
        self._masks: dict[tuple[str, int], Pixels] = {}

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [H, W, 3], read-only; raises what the dataset behind it raises."""
        if image_id not in self._images:
            self._images[image_id] = _frozen(self._dataset.image(image_id))
        return self._images[image_id]

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W], read-only; raises what the dataset behind it raises."""
        key = (image_id, class_id)
        if key not in self._masks:
            self._masks[key] = _frozen(self._dataset.mask(image_id, class_id))
        return self._masks[key]

    def labels(self, image_id: str) -> NDArray[np.uint16]:
        """uint16 [H, W], read-only; raises what the dataset behind it raises.

        Raises:
            InputError: the dataset behind it knows the masks of single classes only.
        """
        if image_id not in self._labels:
            self._labels[image_id] = labelled(self._dataset).labels(image_id)
            self._labels[image_id].flags.writeable = False
        return self._labels[image_id]


def _frozen(array: Pixels) -> Pixels:
    array.flags.writeable = False
    return array

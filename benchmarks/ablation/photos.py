"""The photos of the ablation: what a fold trains on, and what it is tested on."""

from collections.abc import Mapping, Sequence

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.folds import base_classes
from ntre_deploy.runtime.imagefile import Pixels


class HeldOut:
    """Validation photos together with those training photos that a fold's training never shows.

    Args:
        validation, training: datasets of the same classes whose images have different ids.
        unused: ids of the training photos to take in.
    """

    def __init__(self, validation: Dataset, training: Dataset, unused: frozenset[str]) -> None:
        self._validation, self._training, self._unused = validation, training, unused

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self._validation.name}+{self._training.name}:unused"

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> name."""
        return self._validation.class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of both, sorted."""
        unused = [image for image in self._training.images(class_id) if image in self._unused]
        return sorted([*self._validation.images(class_id), *unused])

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [H, W, 3]."""
        return self._source(image_id).image(image_id)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]."""
        return self._source(image_id).mask(image_id, class_id)

    def _source(self, image_id: str) -> Dataset:
        return self._training if image_id in self._unused else self._validation


def held_out(validation: Dataset, training: Dataset, fold: int, split: str) -> HeldOut:
    """All validation photos, and the training photos without any base class of the fold."""
    classes = range(len(training.class_names))
    base = base_classes(len(classes), fold, split)
    shown = {image for c in base for image in training.images(c)}
    unused = frozenset(image for c in classes for image in training.images(c)) - shown
    return HeldOut(validation, training, unused)

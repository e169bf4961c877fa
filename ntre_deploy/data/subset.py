"""Some photos of a dataset as a dataset of their own."""

from collections.abc import Collection, Mapping, Sequence

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.runtime.imagefile import Pixels


class Subset:
    """The photos of `dataset` whose ids are in `keep`; classes and their ids stay as they are."""

    def __init__(self, dataset: Dataset, keep: Collection[str]) -> None:
        self._dataset, self._keep = dataset, frozenset(keep)

    @property
    def name(self) -> str:
        """Of the dataset behind it."""
        return self._dataset.name

    @property
    def class_names(self) -> Mapping[int, str]:
        """Of the dataset behind it."""
        return self._dataset.class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the photos that were kept, sorted."""
        return [image for image in self._dataset.images(class_id) if image in self._keep]

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [H, W, 3]; raises what the dataset behind it raises."""
        return self._dataset.image(image_id)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]; raises what the dataset behind it raises."""
        return self._dataset.mask(image_id, class_id)

"""Some photos of a dataset as a dataset of their own."""

from collections.abc import Collection, Sequence

from ntre_deploy.data.dataset import Dataset, DatasetView


class Subset(DatasetView):
    """The photos of `dataset` whose ids are in `keep`; classes and their ids stay as they are."""

    def __init__(self, dataset: Dataset, keep: Collection[str]) -> None:
        super().__init__(dataset)
        self._keep = frozenset(keep)

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the photos that were kept, sorted."""
        return [image for image in self._dataset.images(class_id) if image in self._keep]

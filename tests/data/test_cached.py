"""The dataset that stays in memory gives what the one behind it gives, and reads it once."""

import numpy as np
import pytest

from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import labelled
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels


class Counting(ProceduralDataset):
    def __init__(self) -> None:
        super().__init__(2, 48)
        self.read: list[str] = []

    def image(self, image_id: str) -> Pixels:
        self.read.append(image_id)
        return super().image(image_id)


def test_it_gives_the_same_and_reads_once() -> None:
    source = Counting()
    cached = CachedDataset(source)
    assert (cached.name, cached.class_names) == (source.name, source.class_names)
    assert cached.images(5) == source.images(5)
    for _ in range(2):
        assert np.array_equal(cached.image("29"), ProceduralDataset(2, 48).image("29"))
        assert np.array_equal(cached.mask("29", 5), source.mask("29", 5))
        assert np.array_equal(cached.labels("29"), source.labels("29"))
    assert source.read == ["29"]


def test_its_arrays_cannot_be_changed_by_accident() -> None:
    cached = CachedDataset(ProceduralDataset(2, 48))
    for array in (cached.image("3"), cached.mask("3", 3), cached.labels("3")):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_masks_of_classes_are_no_labels_of_objects() -> None:
    class Masks:
        name = "folder:x"

    with pytest.raises(InputError, match=r"folder:x has masks of single classes only"):
        labelled(Masks())  # type: ignore[arg-type]

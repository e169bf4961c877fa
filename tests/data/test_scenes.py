"""Scenes made of labelled photos: what is pasted is labelled, and equal seeds give equal scenes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.data.scenes import LabelledPhoto, compose, labelled_photos
from ntre_deploy.data.subset import Subset
from ntre_deploy.runtime.masks import IGNORE

CLASSES = (0, 1, 2)


@pytest.fixture(scope="module")
def photos() -> list[LabelledPhoto]:
    return labelled_photos(ProceduralDataset(3, 96), CLASSES)


def test_every_photo_comes_once_with_all_its_classes(photos: list[LabelledPhoto]) -> None:
    dataset = ProceduralDataset(3, 96)
    wanted = {image for c in CLASSES for image in dataset.images(c)}
    assert [p.image_id for p in photos] == sorted(wanted)
    for photo in photos:
        assert photo.classes == tuple(c for c in CLASSES if photo.image_id in dataset.images(c))
        for n, c in enumerate(photo.classes):
            np.testing.assert_array_equal(photo.masks[n], dataset.mask(photo.image_id, c))


def test_ignored_pixels_stay_ignored() -> None:
    class Marked(ProceduralDataset):
        def mask(self, image_id: str, class_id: int) -> np.ndarray:  # type: ignore[type-arg]
            mask = super().mask(image_id, class_id).copy()
            mask[:3] = IGNORE
            return mask

    photo = labelled_photos(Marked(3, 48), (0,))[0]
    assert (photo.masks[0, :3] == IGNORE).all()


def test_the_plain_scene_is_the_photo(photos: list[LabelledPhoto]) -> None:
    scene = compose(photos, 1, np.random.default_rng(0), plain=True)
    assert scene.image is photos[1].image
    assert scene.masks is photos[1].masks
    assert scene.pasted == frozenset()


@settings(max_examples=40)
@given(index=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_scenes_are_whole_and_leave_the_photos_alone(index: int, seed: int) -> None:
    photos = labelled_photos(ProceduralDataset(3, 96), CLASSES)[:6]
    before = [(p.image.copy(), p.masks.copy()) for p in photos]
    scene = compose(photos, index, np.random.default_rng(seed))
    assert scene.image.dtype == scene.masks.dtype == np.uint8
    assert scene.masks.shape == (len(scene.classes), *scene.image.shape[:2])
    assert min(scene.image.shape) > 0
    assert set(np.unique(scene.masks)) <= {0, 1, IGNORE}
    # what was pasted hides what lies behind it
    ours = scene.masks[len(photos[index].classes) :] == 1
    assert not (ours.any(axis=0) & (scene.masks[: len(photos[index].classes)] == 1).any(axis=0)).any()
    assert scene.classes[: len(photos[index].classes)] == photos[index].classes
    assert scene.pasted == frozenset(scene.classes[len(photos[index].classes) :])
    assert all((p.image == a).all() and (p.masks == b).all() for p, (a, b) in zip(photos, before, strict=True))
    again = compose(photos, index, np.random.default_rng(seed))
    np.testing.assert_array_equal(scene.image, again.image)
    np.testing.assert_array_equal(scene.masks, again.masks)


def test_pasted_objects_are_seen_and_labelled(photos: list[LabelledPhoto]) -> None:
    seen = 0
    for seed in range(30):
        scene = compose(photos, 0, np.random.default_rng(seed))
        for n in range(len(photos[0].classes), len(scene.classes)):
            # a later one may cover it
            seen += int((scene.masks[n] == 1).sum() >= 100)
    assert seen >= 10


def test_a_subset_has_its_photos_alone() -> None:
    dataset = ProceduralDataset(3, 96)
    keep = [dataset.images(0)[1], dataset.images(5)[0]]
    subset = Subset(dataset, keep)
    assert list(subset.images(0)) == [keep[0]]
    assert list(subset.images(1)) == [i for i in keep if i in dataset.images(1)]
    assert subset.name == dataset.name
    assert subset.class_names == dataset.class_names
    np.testing.assert_array_equal(subset.image(keep[0]), dataset.image(keep[0]))
    np.testing.assert_array_equal(subset.mask(keep[0], 0), dataset.mask(keep[0], 0))

"""Photos are held out, not classes, and none is on both sides."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.tuning.judge import episodes_of
from ntre_deploy.tuning.split import LEAST, split_photos


class Album:
    """Photos by class as a dataset; each photo is one grey level, and ids that end in the same number are copies."""

    name = "folder:album"

    def __init__(self, photos: Mapping[int, Sequence[str]]) -> None:
        self.photos = photos
        self.class_names = {c: f"class {c}" for c in photos}

    def images(self, class_id: int) -> Sequence[str]:
        return sorted(self.photos[class_id])

    def image(self, image_id: str) -> np.ndarray:  # type: ignore[type-arg]
        return np.full((2, 2, 3), int(image_id.rpartition("/")[2]), np.uint8)

    def mask(self, image_id: str, class_id: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.ones((2, 2), np.uint8)


ALBUMS = st.dictionaries(st.integers(0, 6), st.sets(st.integers(0, 40), max_size=14), min_size=2, max_size=6).map(
    lambda classes: {c: [f"{c}/{n}" for n in numbers] for c, numbers in classes.items()}
)


@given(ALBUMS, st.integers(0, 5))
def test_sides_are_disjoint_and_leave_enough(photos: dict[int, list[str]], seed: int) -> None:
    album = Album(photos)
    usable = [c for c, images in photos.items() if len(images) >= LEAST]
    if len(usable) < 2:
        with pytest.raises(InputError, match="two classes"):
            split_photos(album, seed)
        return
    split = split_photos(album, seed)
    assert split == split_photos(album, seed)
    assert set(split.learn) == set(usable)
    assert split.left_out == {c: len(images) for c, images in photos.items() if c not in usable}

    def numbers(group: Mapping[int, Sequence[str]]) -> set[str]:
        return {image.rpartition("/")[2] for images in group.values() for image in images}

    # copies of a photo stand under several classes
    assert not numbers(split.learn) & numbers(split.held_out)
    for c in usable:
        held = split.held_out.get(c, [])
        assert sorted([*split.learn[c], *held]) == sorted(photos[c])
        assert len(split.learn[c]) >= 2
        assert len(held) <= max(1, round(0.3 * len(photos[c]))) + len(usable)


def test_classes_without_common_photos_hold_out_three_of_ten() -> None:
    split = split_photos(Album({c: [f"{c}/{20 * c + n}" for n in range(10)] for c in range(3)}))
    assert [len(images) for images in split.held_out.values()] == [3, 3, 3]
    few = split_photos(Album({c: [f"{c}/{20 * c + n}" for n in range(3)] for c in range(2)}))
    assert [len(images) for images in few.held_out.values()] == [1, 1]


def test_queries_are_held_out_and_supports_are_not() -> None:
    album = Album({c: [f"{c}/{20 * c + n}" for n in range(8)] for c in range(2)})
    split = split_photos(album)
    found = episodes_of(album, split)
    assert {e.query for e in found.episodes} == {i for images in split.held_out.values() for i in images}
    for episode in found.episodes:
        assert set(episode.supports) <= set(split.learn[episode.class_id])
        assert len(set(episode.supports)) == len(episode.supports) == 5


def test_copies_of_a_photo_in_one_class_do_not_empty_its_other_side() -> None:
    album = Album({0: ["0/a/7", "0/b/7", "0/c/7", "0/8"], 1: [f"1/{n}" for n in range(20, 25)]})
    for seed in range(8):
        split = split_photos(album, seed)
        assert len(split.learn[0]) >= 2
        assert not {"0/a/7", "0/b/7", "0/c/7"} & set(split.held_out.get(0, []))


def test_more_photos_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntre_deploy.tuning.split.MOST", 9)
    with pytest.raises(InputError, match="has 10 photos; a tune takes at most 9"):
        split_photos(Album({c: [f"{c}/{20 * c + n}" for n in range(5)] for c in range(2)}))

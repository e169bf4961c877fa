"""N-way episodes: what is drawn, the truth of overlapping masks, and files that were tampered with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ntre_deploy.data.episodes import read_episodes, sample_episodes, write_episodes
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.data.ways import WaysSet, read_ways, sample_ways, ways_truth, write_ways
from ntre_deploy.errors import InputError

DATA = ProceduralDataset(3)
CLASSES = list(range(8))


def draw(**more: Any) -> WaysSet:
    return sample_ways(DATA, CLASSES, **({"ways": 3, "shots": 2, "count": 12, "seed": 5} | more))


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_an_episode_has_different_classes_and_images_and_a_query_of_one_of_them(
    ways: int, shots: int, seed: int
) -> None:
    for episode in draw(ways=ways, shots=shots, count=3, seed=seed).episodes:
        ids = [way.class_id for way in episode.ways]
        assert ids == sorted(set(ids))
        assert len(ids) == ways
        assert set(ids) <= set(CLASSES)
        images = [episode.query, *(image for way in episode.ways for image in way.supports)]
        assert len(set(images)) == 1 + ways * shots
        assert any(episode.query in DATA.images(c) for c in ids)
        assert all(image in DATA.images(way.class_id) for way in episode.ways for image in way.supports)


def test_the_first_class_of_an_episode_is_that_of_the_one_way_draw() -> None:
    one = sample_episodes(DATA, CLASSES, 2, 12, 5)
    for single, several in zip(one.episodes, draw().episodes, strict=True):
        assert several.query == single.query
        assert (single.class_id, single.supports) in [(way.class_id, way.supports) for way in several.ways]


def test_the_draw_hangs_on_the_seed_alone() -> None:
    assert draw() == draw()
    assert draw().episodes[:4] == draw(count=4).episodes
    assert draw() != draw(seed=6)
    assert sample_ways(DATA, CLASSES[::-1], 3, 2, 12, 5) == draw()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ways": 0}, "--ways 0"),
        ({"ways": 9}, "8 classes with enough images"),
        ({"ways": 255}, "1 to 254"),
        ({"shots": 0}, "0 shots"),
        ({"shots": 40}, "40-shot episodes need 41"),
        ({"seed": -1}, "-1 as the seed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(more: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw(**more)


class Shared:
    """Two classes that lie in the same images."""

    name = "shared"
    class_names = {0: "fork", 1: "knife"}  # noqa: RUF012

    def images(self, class_id: int) -> list[str]:
        return ["a", "b", "c", "d"]


def test_too_few_images_for_all_ways_are_refused() -> None:
    data: Any = Shared()
    assert len(sample_ways(data, [0, 1], 2, 1, 4, 0).episodes) == 4
    with pytest.raises(InputError, match="too few images for 2 ways of 2 shots"):
        sample_ways(data, [0, 1], 2, 2, 4, 0)


MASKS = st.integers(1, 4).flatmap(
    lambda n: arrays.arrays(np.uint8, (n, 3, 5), elements=st.sampled_from([0, 0, 1, 255]))
)


@given(MASKS)
def test_the_truth_is_the_only_claim_and_ignores_doubt(masks: np.ndarray) -> None:
    truth = ways_truth(list(masks))
    assert truth.dtype == np.uint8
    for place in np.ndindex(*truth.shape):
        own = masks[(slice(None), *place)]
        claims = [n for n, value in enumerate(own, 1) if value == 1]
        wanted = 255 if 255 in own or len(claims) > 1 else claims[0] if claims else 0
        assert truth[place] == wanted


def test_a_file_gives_the_set_again(tmp_path: Path) -> None:
    write_ways(tmp_path / "set.jsonl", draw(fold=None))
    assert read_ways(tmp_path / "set.jsonl") == draw()
    assert json.loads((tmp_path / "set.jsonl").read_text().splitlines()[0])["version"] == 2


def test_the_two_kinds_of_files_are_told_apart(tmp_path: Path) -> None:
    write_ways(tmp_path / "several.jsonl", draw())
    write_episodes(tmp_path / "one.jsonl", sample_episodes(DATA, CLASSES, 1, 2, 0))
    with pytest.raises(InputError, match=r"several.jsonl holds 3-way episodes; run them with .* --ways 3"):
        read_episodes(tmp_path / "several.jsonl")
    with pytest.raises(InputError, match=r"one.jsonl holds one-way episodes; leave out --ways"):
        read_ways(tmp_path / "one.jsonl")


def _way(record: dict[str, Any], **change: Any) -> dict[str, Any]:
    return record | {"ways": [record["ways"][0] | change, *record["ways"][1:]]}


@pytest.mark.parametrize(
    ("line", "edit", "words"),
    [
        (1, lambda r: r | {"version": 3}, "expected 'ntre-episodes' version 2"),
        (1, lambda r: r | {"ways": 0}, "0 ways; expected 1 to 254"),
        (1, lambda r: r | {"ways": True}, "'ways' is of the wrong type bool"),
        (1, lambda r: r | {"seed": 6}, "expected the SHA-256"),
        (1, lambda r: r | {"count": 2}, "expected 2 episodes, but 12 lines follow"),
        (2, lambda r: r | {"ways": r["ways"][:2]}, "expected 'ways' to be 3 classes"),
        (2, lambda r: r | {"ways": r["ways"][::-1]}, "different classes in the order of their ids"),
        (2, lambda r: r | {"ways": [*r["ways"][:2], 7]}, "expected each of 'ways'"),
        (2, lambda r: _way(r, **{"class": -1}), "expected each of 'ways'"),
        (2, lambda r: _way(r, supports=["1"]), "expected 'supports' to be 2 image ids"),
        (2, lambda r: _way(r, supports=[1, 2]), "expected 'supports' to be 2 image ids"),
        (2, lambda r: _way(r, supports=[r["query"], "7"]), "expected 7 different images"),
        (2, lambda r: _way(r, extra=1), "expected each of 'ways'"),
        (2, lambda r: [r], "expected a JSON object with exactly query, ways"),
    ],
)
def test_a_file_that_was_changed_is_refused(line: int, edit: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    write_ways(path, draw())
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps(edit(json.loads(lines[line - 1])))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"line {line}: .*{words}") as caught:
        read_ways(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"seed": 6}, {"shots": 1}, {"dataset": "x"}, {"fold": 1}])
def test_every_field_is_in_the_hash(change: dict[str, Any]) -> None:
    assert dataclasses.replace(draw(), **change).hash != draw().hash

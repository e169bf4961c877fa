import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntre_deploy.data.episodes import Episode, EpisodeSet, read_episodes, sample_episodes, write_episodes
from ntre_deploy.errors import InputError

# Fixtures here hold no state that a second example could see
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@quick
@given(seed=seeds, shots=st.integers(1, 5), count=st.integers(1, 40))
def test_episodes_repeat_no_image_and_balance_classes(
    fake_dataset: Callable[..., Any], seed: int, shots: int, count: int
) -> None:
    dataset = fake_dataset([6, 7, 20])
    drawn = sample_episodes(dataset, [0, 1, 2], shots, count, seed)
    assert len(drawn.episodes) == count
    for episode in drawn.episodes:
        assert len({episode.query, *episode.supports}) == shots + 1
        assert {episode.query, *episode.supports} <= set(dataset.images(episode.class_id))
    visits = Counter(e.class_id for e in drawn.episodes)
    assert max(visits[c] for c in range(3)) - min(visits[c] for c in range(3)) <= 1


@quick
@given(seed=seeds, short=st.integers(1, 20), more=st.integers(0, 20))
def test_sampling_is_deterministic_and_independent_of_count(
    fake_dataset: Callable[..., Any], seed: int, short: int, more: int
) -> None:
    dataset = fake_dataset([5, 9, 12, 30])
    first = sample_episodes(dataset, [3, 1, 0], 2, short, seed)
    longer = sample_episodes(dataset, [0, 1, 3], 2, short + more, seed)
    assert longer.episodes[:short] == first.episodes
    assert sample_episodes(dataset, [3, 1, 0], 2, short, seed).hash == first.hash


def test_all_images_of_a_class_serve(fake_dataset: Callable[..., Any]) -> None:
    drawn = sample_episodes(fake_dataset([8]), [0], 1, 200, 0)
    assert len({e.query for e in drawn.episodes}) == len({e.supports[0] for e in drawn.episodes}) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 5}, "Class 'class0' of fake has 3 images .* 5-shot episodes need 6"),
        ({"shots": 0}, "0 shots"),
        ({"count": 0}, "0 episodes"),
        ({"seed": -1}, "-1 as the seed"),
        ({"seed": 2**32}, "at most"),
        ({"classes": []}, "at least one class"),
        ({"classes": [1, 1]}, "only once"),
        ({"classes": [5]}, "no class 5"),
    ],
)
def test_bad_requests(fake_dataset: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"classes": [0, 1], "shots": 1, "count": 3, "seed": 0} | changes
    with pytest.raises(InputError, match=message):
        sample_episodes(fake_dataset([3, 9]), **arguments)


texts = st.text(max_size=8)


@st.composite
def episode_sets(draw: st.DrawFn) -> EpisodeSet:
    shots = draw(st.integers(1, 3))
    episodes = []
    for _ in range(draw(st.integers(0, 4))):
        query, *supports = draw(st.lists(texts, min_size=shots + 1, max_size=shots + 1, unique=True))
        episodes.append(Episode(draw(st.integers(0, 99)), draw(texts), query, tuple(supports)))
    fold = draw(st.none() | st.integers(0, 3))
    return EpisodeSet(draw(texts), draw(texts), fold, shots, draw(seeds), tuple(episodes))


@quick
@given(episode_set=episode_sets())
def test_file_round_trip(tmp_path: Path, episode_set: EpisodeSet) -> None:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, episode_set)
    assert read_episodes(path) == episode_set
    assert read_episodes(path).hash == episode_set.hash


def test_hash_covers_every_field(fake_dataset: Callable[..., Any]) -> None:
    base = sample_episodes(fake_dataset([9]), [0], 1, 2, 0)
    others = [
        replace(base, dataset="x"),
        replace(base, split="x"),
        replace(base, fold=1),
        replace(base, shots=2),
        replace(base, seed=1),
        replace(base, episodes=base.episodes[::-1]),
        replace(base, episodes=(replace(base.episodes[0], class_name="x"), *base.episodes[1:])),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == len(others) + 1


@pytest.fixture
def episode_file(tmp_path: Path, fake_dataset: Callable[..., Any]) -> Path:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, sample_episodes(fake_dataset([9, 9]), [0, 1], 2, 3, 0, split="interleaved", fold=1))
    return path


def test_file_begins_with_its_header(episode_file: Path) -> None:
    header, *lines = map(json.loads, episode_file.read_text().splitlines())
    assert header.pop("sha256") == read_episodes(episode_file).hash
    assert header == {
        "format": "ntre-episodes",
        "version": 1,
        "dataset": "fake",
        "split": "interleaved",
        "fold": 1,
        "shots": 2,
        "seed": 0,
        "count": 3,
    }
    assert [set(line) for line in lines] == [{"class", "class_name", "query", "supports"}] * 3


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, {"version": 2}, "line 1: .*expected 'ntre-episodes' version 1"),
        (1, {"format": "x"}, "line 1: format 'x'"),
        (1, {"count": 4}, "line 1: expected 4 episodes, but 3 lines follow"),
        (1, {"shots": True}, "line 1: 'shots' is of the wrong type bool"),
        (1, {"shots": 0}, "line 1: 0 shots"),
        (1, {"seed": 1}, "line 1: expected the SHA-256"),
        (1, {"extra": 1}, "line 1: expected a JSON object with exactly"),
        (2, {"class": "0"}, "line 2: 'class' is of the wrong type str"),
        (2, {"class": -1}, "line 2: expected 'class'"),
        (3, {"supports": ["a"]}, "line 3: expected 'supports' to be 2 image ids"),
        (3, {"supports": ["a", 1]}, "line 3: expected 'supports'"),
        (3, {"supports": ["a", "a"]}, "line 3: expected 3 different images"),
        (4, {"query": "other"}, "line 1: expected the SHA-256"),
        (4, {"class_name": None}, "line 4: 'class_name' is of the wrong type NoneType"),
    ],
)
def test_tampered_files(episode_file: Path, line: int, change: dict[str, Any], message: str) -> None:
    lines = episode_file.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    episode_file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        read_episodes(episode_file)
    assert str(episode_file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b"\xff\xfe\x00", b"{" * 200_000, b'{"format": 1}', b"null"])
def test_hostile_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x.jsonl"):
        read_episodes(path)


def test_cut_off_file(episode_file: Path) -> None:
    whole = episode_file.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        episode_file.write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_episodes(episode_file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_episodes(tmp_path / "none.jsonl")

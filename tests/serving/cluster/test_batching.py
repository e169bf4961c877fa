"""Requests that share supports go through the engine by one query, and each gets its own answer."""

import asyncio
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed")

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.cluster.app import build
from ntre_deploy.serving.cluster.batching import BatchingService, Waiting
from ntre_deploy.serving.cluster.wanted import Wanted
from ntre_deploy.serving.limits import BusyError, Limits
from ntre_deploy.serving.service import Answer, Asked
from ntre_deploy.serving.supports import Named, Shown, Stored, supports_key

LATER = float("inf")
Opened = tuple[BatchingService, list[int]]


@pytest.fixture
def batching(exported: Path) -> Iterator[Opened]:
    """A service, and how many photos each query had."""
    service = BatchingService.open(exported, engine="onnx-cpu", workers=1, limits=Limits(waiting=8, pixels=50_000))
    assert isinstance(service, BatchingService)
    sizes: list[int] = []
    engine = type(service.segmenter.engine)
    query = engine.query

    def counted(self: Any, image: Any, supports: Any) -> Any:
        sizes.append(len(image))
        return query(self, image, supports)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "query", counted)
        yield service, sizes
    service.close(0)


@pytest.fixture
def shown(files: list[SimpleNamespace]) -> Callable[[int, str], Shown]:
    return lambda index, name: Shown(name, ((files[index].photo, files[index].mask),))


def test_requests_with_the_same_supports_share_a_query(
    batching: Opened,
    shown: Callable[[int, str], Shown],
    shots: list[tuple[Any, Any]],
    files: list[SimpleNamespace],
    segmenter: Segmenter,
) -> None:
    service, sizes = batching
    one, other = shown(0, "disc"), shown(1, "disc")
    memory = segmenter.encode_support([shots[0]], "disc")
    stored = Stored(memory.to_bytes())

    async def ask() -> list[Any]:
        asked = [(files[n].photo, one) for n in (2, 3)]
        asked += [(files[n].photo, other) for n in (4, 5)]
        asked += [(files[2].photo, stored), (b"no photo", one), (shots[3][0], stored), (np.zeros((9, 9)), one)]
        return await service.answers(
            [
                Waiting(Asked(photo, f"number {n}", lambda result: result.size), [support], LATER)
                for n, (photo, support) in enumerate(asked)
            ]
        )

    answers = asyncio.run(ask())
    assert sorted(sizes) == [2, 2, 2]
    others = segmenter.encode_support([shots[1]], "disc")
    for place, photo, against in ((0, 2, memory), (1, 3, memory), (2, 4, others), (3, 5, others), (4, 2, memory)):
        answer, expected = answers[place], segmenter.segment_result(shots[photo][0], against)
        # a query of several rounds other than one of one
        assert (answer.result.labels != expected.labels).mean() < 0.001
        assert answer.made == expected.size
        assert {"queue", "support", "engine"} <= answer.seconds.keys()
    assert isinstance(answers[5], InputError)
    assert "number 5" in str(answers[5])
    assert isinstance(answers[7], InputError)


def test_without_batches_it_is_the_usual_service(
    batching: Opened, shown: Callable[[int, str], Shown], files: list[SimpleNamespace]
) -> None:
    service, sizes = batching
    # None is for an engine on CPUs one at a time
    service.gather(None, 1.0)
    futures = [service.submit(files[2].photo, [shown(0, "disc")]) for _ in range(3)]
    assert all(future.result().result is not None for future in futures)
    assert sizes == [1, 1, 1]


def test_a_full_queue_is_told_to_each(
    batching: Opened, shown: Callable[[int, str], Shown], files: list[SimpleNamespace]
) -> None:
    service, _ = batching
    asked = [Waiting(Asked(files[2].photo), [shown(n % 6, f"disc {n}")], LATER) for n in range(40)]
    answers = asyncio.run(service.answers(asked))
    busy = [answer for answer in answers if isinstance(answer, BusyError)]
    assert 0 < len(busy) < 40
    assert all(isinstance(answer, BusyError | Answer) for answer in answers)


def test_supports_have_one_key_where_they_mean_the_same(shown: Callable[[int, str], Shown]) -> None:
    kinds = [
        [shown(0, "a")],
        [shown(0, "b")],
        [shown(1, "a")],
        [Named("a")],
        [Named("b")],
        [Stored(b"a")],
        [Stored(b"b")],
    ]
    kinds += [[Named("a"), Named("b")], [Named("b"), Named("a")], [Named("ab")], [Named("a"), shown(0, "a")]]
    keys = [supports_key(kind) for kind in kinds]
    assert len(set(keys)) == len(keys)
    assert supports_key([shown(0, "a"), Named("b")]) == supports_key([shown(0, "a"), Named("b")])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "bundles"),
        ({"bundles": []}, "bundles"),
        ({"bundle": 3}, "No bundle"),
        ({"bundles": {"a b/": "x"}}, "cannot name"),
        ({"bundles": {"a": "x"}, "worker": 2}, "Did you mean 'workers'"),
        ({"bundles": {"a": "x"}, "workers": 0}, "'workers' is 0"),
        ({"bundles": {"a": "x"}, "batch": "four"}, "'batch' is 'four'"),
        ({"bundles": {"a": "x"}, "limits": {"pixel": 3}}, "pixels"),
        ({"bundles": {"a": "x"}, "limits": {"pixels": 0}}, "'pixels' is 0"),
        ({"bundles": {"a": "x"}, "api_keys": "none.txt"}, "none.txt"),
        ({"bundles": {"a": "none.ntre"}}, "none.ntre"),
        ({"bundle": "none.ntre"}, "none.ntre"),
    ],
)
def test_what_cannot_be_served_is_refused_when_it_is_deployed(
    given: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        build(given)
    assert "\n" not in str(caught.value)


def test_the_example_is_an_application(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve

    monkeypatch.setenv("NTRE_BUNDLE", str(exported))
    monkeypatch.setenv("NTRE_MEMORIES", str(tmp_path / "memories"))
    example = Path(__file__).parents[3] / "examples" / "ray" / "segmentation.py"
    made = runpy.run_path(str(example))["app"]
    assert isinstance(made, serve.Application)
    # what the command line gives are texts
    assert isinstance(build({"bundle": str(exported), "workers": "2", "batch": "4"}), serve.Application)


def test_a_configuration_is_read_whole(exported: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    given = {"bundles": {"tiny": str(exported)}, "hosts": ["here"], "api_keys": str(keys), "limits": {"seconds": 5}}
    wanted = Wanted.read(given)
    settings = wanted.settings()
    assert (wanted.workers, wanted.hosts, settings.hosts) == (1, ("here",), ("here",))
    assert settings.limits.seconds == 5
    assert settings.keys.known("0123456789abcdef")
    assert Wanted.read(given) == wanted

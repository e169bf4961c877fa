"""Images per second with several threads, on the real engine of a tiny bundle."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench.systems import Cached
from ntre_deploy.bench.throughput import measure_throughput
from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.segmenter import Segmenter

IMAGE = np.full((40, 50, 3), 90, np.uint8)
MASK = np.zeros((40, 50), np.uint8)
MASK[10:30, 10:30] = 1


@pytest.fixture
def system(exported: Path) -> Cached:
    return Cached(Segmenter.load(exported, "onnx-cpu", precision="fp32", threads=1), "onnx-cpu", "fp32")


def test_every_number_of_threads_gets_its_rate(system: Cached) -> None:
    calls: list[None] = []
    (rates,) = measure_throughput(
        [system], [[(IMAGE, MASK)]], [IMAGE], [1, 3], seconds=0.05, rounds=2, progress=lambda: calls.append(None)
    )
    assert [rate.workers for rate in rates] == [1, 3]
    assert all(0 < rate.low <= rate.median <= rate.high for rate in rates)
    assert len(calls) == 4


def test_each_thread_has_a_segmenter_of_its_own(system: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    users: dict[int, set[int]] = {}
    segment = Segmenter.segment

    def noted(self: Segmenter, image: Any, memory: Any) -> Any:
        users.setdefault(id(self), set()).add(threading.get_ident())
        return segment(self, image, memory)

    monkeypatch.setattr(Segmenter, "segment", noted)
    kept: list[Segmenter] = []
    clone = Segmenter.clone
    monkeypatch.setattr(Segmenter, "clone", lambda self: kept.append(clone(self)) or kept[-1])
    measure_throughput([system], [[(IMAGE, MASK)]], [IMAGE], [2], seconds=0.02, rounds=1)
    assert sorted(users) == sorted(id(one) for one in kept)
    assert len(users) == 2
    assert all(len(threads) == 1 for threads in users.values())


def test_an_engine_that_fails_in_a_thread_fails_the_measurement(
    system: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Segmenter, image: Any, memory: Any) -> Any:
        raise EngineError("the engine is gone")

    monkeypatch.setattr(Segmenter, "segment", broken)
    with pytest.raises(EngineError, match="the engine is gone"):
        measure_throughput([system], [[(IMAGE, MASK)]], [IMAGE], [1, 2], seconds=0.02)


def test_an_engine_that_is_opened_another_way_for_many_is_used_so(system: Cached) -> None:
    opened: list[None] = []

    def reopen() -> Segmenter:
        opened.append(None)
        return system.segmenter.clone()

    many = Cached(system.segmenter, system.name, system.precision, throughput=reopen)
    measure_throughput([many], [[(IMAGE, MASK)]], [IMAGE], [1], seconds=0.02, rounds=1)
    assert opened == [None]

"""The queue in front of the workers: bounded, in order, and answered to the end."""

import threading
import time

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.limits import BusyError, ClosedError, LateError
from ntre_deploy.serving.pool import Pool

PATIENCE = 60


def test_so_many_wait_and_the_next_one_is_refused(segmenter: Segmenter) -> None:
    pool, go = Pool(segmenter, 2, 3), threading.Event()
    accepted = [pool.submit(lambda _: go.wait(PATIENCE)) for _ in range(5)]
    assert pool.full
    assert pool.under_way == 5
    with pytest.raises(BusyError, match="3 requests wait already") as refused:
        pool.submit(lambda _: True)
    assert refused.value.seconds >= 1
    go.set()
    assert [future.result(PATIENCE) for future in accepted] == [True] * 5
    assert pool.submit(lambda _: 7).result(PATIENCE) == 7
    assert pool.drain() == 0


def test_each_worker_has_a_segmenter_of_its_own(segmenter: Segmenter) -> None:
    pool, both = Pool(segmenter, 2, 2), threading.Barrier(2)

    def work(own: Segmenter) -> int:
        both.wait(PATIENCE)
        return id(own)

    one, other = (pool.submit(work) for _ in range(2))
    assert len({one.result(PATIENCE), other.result(PATIENCE), id(segmenter)}) == 3
    pool.drain()


def test_draining_answers_what_was_accepted_and_takes_nothing_new(segmenter: Segmenter) -> None:
    pool, go = Pool(segmenter, 1, 4), threading.Event()
    accepted = [pool.submit(lambda _: go.wait(PATIENCE)) for _ in range(4)]
    left: list[int] = []
    draining = threading.Thread(target=lambda: left.append(pool.drain()))
    draining.start()
    while not pool.full:
        time.sleep(0.01)
    with pytest.raises(ClosedError, match="takes nothing new"):
        pool.submit(lambda _: True)
    go.set()
    draining.join(PATIENCE)
    assert left == [0]
    assert all(future.result(0) for future in accepted)


def test_draining_gives_up_after_its_time(segmenter: Segmenter) -> None:
    pool, go = Pool(segmenter, 1, 4), threading.Event()
    accepted = [pool.submit(lambda _: go.wait(PATIENCE)) for _ in range(3)]
    assert pool.drain(0.1) == 3
    assert [future.cancelled() for future in accepted] == [False, True, True]
    go.set()
    assert accepted[0].result(PATIENCE)


def test_what_waits_too_long_is_not_begun(segmenter: Segmenter) -> None:
    pool, go, begun = Pool(segmenter, 1, 4), threading.Event(), []
    first = pool.submit(lambda _: go.wait(PATIENCE))
    late = pool.submit(begun.append, deadline=time.monotonic() - 1)
    go.set()
    assert first.result(PATIENCE)
    with pytest.raises(LateError):
        late.result(PATIENCE)
    assert begun == []
    pool.drain()


def test_a_failure_is_its_own_and_frees_its_place(segmenter: Segmenter) -> None:
    pool = Pool(segmenter, 1, 0)

    def fail(own: Segmenter) -> None:
        raise EngineError("broken")

    for _ in range(3):
        with pytest.raises(EngineError, match="broken"):
            pool.submit(fail).result(PATIENCE)
        while pool.under_way:
            time.sleep(0.01)
    assert pool.submit(lambda _: 1).result(PATIENCE) == 1
    pool.drain()

"""Requests queue, and of those that ask for the same the newest wins."""

import threading

import pytest

from ntre_deploy.studio.worker import OutdatedError, Worker


@pytest.fixture
def held():
    """A worker that is busy until `go` is set."""
    worker, go = Worker("test"), threading.Event()
    busy = worker.submit("busy", lambda: go.wait(20))
    yield worker, go
    go.set()
    busy.exception(20)
    worker.close()


def test_of_equal_requests_the_newest_wins(held) -> None:
    worker, go = held
    done: list[int] = []
    first = worker.submit("labels", lambda: done.append(1))
    second = worker.submit("labels", lambda: done.append(2))
    other = worker.submit("scores", lambda: done.append(3))
    assert isinstance(first.exception(5), OutdatedError)
    go.set()
    second.result(5)
    other.result(5)
    assert done == [2, 3]


def test_what_a_person_waits_for_goes_first(held) -> None:
    worker, go = held
    done: list[str] = []
    last = worker.submit("late", lambda: done.append("late"), 2)
    worker.submit("soon", lambda: done.append("soon"), 1)
    worker.submit("now", lambda: done.append("now"), 0)
    go.set()
    last.result(5)
    assert done == ["now", "soon", "late"]


def test_an_error_goes_to_the_one_who_asked_and_the_thread_works_on() -> None:
    worker = Worker("test")

    def fail() -> None:
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        worker.submit("a", fail).result(5)
    assert worker.submit("b", lambda: 7).result(5) == 7
    worker.close()


def test_at_the_end_what_waits_is_given_up(held) -> None:
    worker, _ = held
    worker.submit("a", lambda: None)
    waits = worker.submit("a", lambda: None)
    worker.close()
    assert isinstance(waits.exception(5), OutdatedError)
    assert isinstance(worker.submit("b", lambda: None).exception(5), OutdatedError)


def test_one_who_has_gone_is_left_out(held) -> None:
    worker, go = held
    done: list[int] = []
    gone = worker.submit("a", lambda: done.append(1))
    assert gone.cancel()
    stays = worker.submit("b", lambda: done.append(2))
    go.set()
    stays.result(5)
    assert done == [2]

"""Steps beside each other: in order, bounded, and an error or a stop of any of them ends all."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ntre_deploy.segment.pipeline import side_by_side


def same(item: int) -> int:
    return item


def test_items_come_out_in_order_and_each_step_has_its_thread() -> None:
    main, seen, collected = threading.current_thread(), {}, []

    def prepare(item: int) -> int | None:
        time.sleep(0.002 * (item % 3))
        seen["prepare"] = threading.current_thread()
        return None if item % 10 == 9 else item

    def compute(item: int) -> int:
        assert threading.current_thread() is main
        return item

    def finish(item: int) -> int:
        time.sleep(0.002 * (item % 4))
        return item

    side_by_side(iter(range(60)), prepare, compute, finish, collected.append)
    assert collected == [k for k in range(60) if k % 10 != 9]
    assert seen["prepare"] is not main


def test_few_items_are_in_between() -> None:
    drawn, finished, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal drawn, most
        for k in range(300):
            drawn += 1
            most = max(most, drawn - finished)
            yield k

    def collect(item: int) -> None:
        nonlocal finished
        time.sleep(0.001)
        finished += 1

    side_by_side(items(), same, same, same, collect, ahead=2)
    assert (drawn, finished) == (300, 300)
    # two lanes of two, and one in the hand of each step
    assert most <= 2 * 2 + 5


def test_the_steps_overlap() -> None:
    """Four neighbours meet, each in a step of its own, which would never happen to steps that run in turn."""
    meeting, met = threading.Barrier(4), []

    def step(waits: int) -> Callable[[int], int]:
        def waited(item: int) -> int:
            if item == waits:
                meeting.wait(60)
                met.append(item)
            return item

        return waited

    def collect(item: int) -> None:
        step(0)(item)

    side_by_side(iter(range(9)), step(3), step(2), step(1), collect)
    assert sorted(met) == [0, 1, 2, 3]


@pytest.mark.parametrize("step", ["items", "prepare", "compute", "finish", "collect"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_any_step_ends_all_and_leaves_no_thread(step: str, kind: type[BaseException]) -> None:
    before, closed = threading.active_count(), []

    def fail(name: str, item: int) -> int:
        if name == step and item == 20:
            raise kind(name)
        return item

    def items() -> Iterator[int]:
        try:
            for k in range(10_000):
                yield fail("items", k)
        finally:
            closed.append(threading.current_thread().name)

    collected: list[int] = []
    with pytest.raises(kind, match=step):
        side_by_side(
            items(),
            lambda k: fail("prepare", k),
            lambda k: fail("compute", k),
            lambda k: fail("finish", k),
            lambda k: collected.append(fail("collect", k)),
        )
    assert closed == ["read"]
    assert threading.active_count() == before
    assert collected == list(range(len(collected)))
    assert len(collected) <= 20

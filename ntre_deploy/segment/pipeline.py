"""Reading, inference and writing side by side: in order, with few items in between, so that memory stays bounded."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Computed = TypeVar("Computed")
Done = TypeVar("Done")

# more would take memory for large photos and wait for the engine all the same
_MOST_WORKERS = 4


class _ClosedError(Exception):
    """The other side of a lane has gone."""


class _Lane(Generic[Item]):
    """A queue of bounded length that either side can close."""

    def __init__(self, bound: int) -> None:
        self._items: deque[Item] = deque()
        self._bound = bound
        self._changed = threading.Condition()
        self._ended = self._closed = False

    def put(self, item: Item) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._bound)
            if self._closed:
                raise _ClosedError
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._ended or bool(self._items))
                if self._closed:
                    raise _ClosedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def side_by_side(
    items: Iterator[Item],
    prepare: Callable[[Item], Ready | None],
    compute: Callable[[Ready], Computed],
    finish: Callable[[Computed], Done],
    collect: Callable[[Done], None],
    *,
    ahead: int | None = None,
) -> None:
    """Take every item through four steps; each step works on another item at the same time.

    `items` are drawn on a thread of their own, `prepare` and `finish` run on a few threads each, `compute` on the
    calling one, and `collect` on one more, in the order of the items.  An error of any step ends all of them and is
    raised here.

    Args:
        items: closed on the thread that draws them.
        prepare: may return None, and the item ends there.
        ahead: items that may wait before `compute`, and as many behind it; a few by default.
    """
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    ready: _Lane[Future[Ready | None]] = _Lane(ahead or workers + 1)
    done: _Lane[Future[Done]] = _Lane(ahead or workers + 1)
    failed: list[BaseException] = []

    def feed() -> None:
        try:
            try:
                for item in items:
                    ready.put(preparing.submit(prepare, item))
            finally:
                if isinstance(items, Generator):
                    items.close()
        except _ClosedError:
            return
        except BaseException as error:
            # in its turn, behind what was drawn before it
            lost: Future[Any] = Future()
            lost.set_exception(error)
            _try_put(ready, lost)
        ready.end()

    def gather() -> None:
        try:
            for future in done:
                collect(future.result())
        except _ClosedError:
            return
        except BaseException as error:
            failed.append(error)
            ready.close()
            done.close()

    feeder = threading.Thread(target=feed, name="read")
    gatherer = threading.Thread(target=gather, name="collect")
    with ThreadPoolExecutor(workers, "prepare") as preparing, ThreadPoolExecutor(workers, "finish") as finishing:
        feeder.start()
        gatherer.start()
        try:
            for future in ready:
                item = future.result()
                if item is not None:
                    done.put(finishing.submit(finish, compute(item)))
            done.end()
            gatherer.join()
        except _ClosedError:
            pass
        finally:
            ready.close()
            done.close()
            feeder.join()
            gatherer.join()
    if failed:
        raise failed[0]


def _try_put(lane: _Lane[Item], item: Item) -> None:
    try:
        lane.put(item)
    except _ClosedError:
        return

"""One thread for all work of a kind: requests wait in a queue, and of those that ask for the same the newest wins."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ntre_deploy.errors import NtreError

Result = TypeVar("Result")


class OutdatedError(NtreError):
    """A request that waited was overtaken by a newer one, or asks for what has changed since."""


class Worker:
    """A thread and its queue.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[int, int, str, Callable[[], Any], Future[Any]]] = []
        self._waiting: dict[str, Future[Any]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        # a request that is in the middle of the engine must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, key: str, work: Callable[[], Result], priority: int = 1) -> "Future[Result]":
        """Queue some work.

        Args:
            key: what it is for; work of the same key that still waits is given up with an `OutdatedError`.
            priority: smaller goes first; equals in the order in which they came.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(OutdatedError("The studio is closing."))
                return future
            before = self._waiting.pop(key, None)
            self._waiting[key] = future
            heapq.heappush(self._heap, (priority, next(self._numbers), key, work, future))
            self._changed.notify()
        if before is not None and before.set_running_or_notify_cancel():
            before.set_exception(OutdatedError("A newer request came."))
        return future

    def close(self) -> None:
        """Give up what waits; what runs ends by itself."""
        with self._changed:
            self._closed = True
            left = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify()
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(OutdatedError("The studio is closing."))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._heap))
                if self._closed:
                    return
                _, _, key, work, future = heapq.heappop(self._heap)
                if self._waiting.get(key) is not future:
                    continue
                del self._waiting[key]
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

"""Threads with a segmenter each, and a queue in front of them that does not grow without end."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.limits import BusyError, ClosedError, LateError

Done = TypeVar("Done")

# how much the newest piece of work counts in what is known of their length
_NEWEST = 0.1


class Pool:
    """Work for the engine, a few pieces at a time, in the order in which they come.

    Args:
        segmenter: cloned for each thread.
        workers: threads.
        waiting: pieces that may wait for one; more are refused.
    """

    def __init__(self, segmenter: Segmenter, workers: int, waiting: int) -> None:
        self.workers = workers
        self.waiting = waiting
        self._segmenter = segmenter
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(workers, "engine", self._begin)
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._closed = False
        self._seconds = 0.0

    def submit(self, work: Callable[[Segmenter], Done], deadline: float | None = None) -> "Future[Done]":
        """Queue some work; while it waits, its future can be cancelled.

        Args:
            work: gets the thread's own segmenter.
            deadline: of `time.monotonic`; work that has not begun by then fails with a `LateError`.

        Raises:
            BusyError: so many wait already.
            ClosedError: the pool is being closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("The server is ending and takes nothing new; try another one.")
            if len(self._under_way) >= self.workers + self.waiting:
                raise self.refusal()
            future = self._threads.submit(self._run, work, deadline)
            self._under_way.add(future)
        future.add_done_callback(self._forget)
        return future

    @property
    def under_way(self) -> int:
        """Pieces of work that wait or run."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether the next piece of work would be refused."""
        return self._closed or self.under_way >= self.workers + self.waiting

    @property
    def patience(self) -> float:
        """Seconds until half of the queue is done, as long as work took of late; 1 at least."""
        return max(1.0, self._seconds * (self.waiting / 2 + 1) / self.workers)

    def refusal(self) -> BusyError:
        """What is told to whom there is no place for."""
        return BusyError(
            f"{self.waiting} requests wait already, and no more may; try again in {self.patience:.0f} s.",
            self.patience,
        )

    def drain(self, seconds: float | None = None) -> int:
        """Take nothing new, and wait for what was accepted.

        Args:
            seconds: to wait at most; what still waits then is given up, and what runs is left alone.

        Returns:
            how many pieces of work were not done.
        """
        with self._lock:
            self._closed = True
            left = set(self._under_way)
        undone = wait(left, seconds).not_done
        self._threads.shutdown(wait=not undone, cancel_futures=True)
        return len(undone)

    def _begin(self) -> None:
        self._own.segmenter = self._segmenter.clone()

    def _run(self, work: Callable[[Segmenter], Done], deadline: float | None) -> Done:
        start = time.monotonic()
        if deadline is not None and start > deadline:
            raise LateError("The time of this request was over before a worker was free; try again later.")
        try:
            return work(self._own.segmenter)
        finally:
            took = time.monotonic() - start
            with self._lock:
                self._seconds = took if self._seconds == 0 else (1 - _NEWEST) * self._seconds + _NEWEST * took

    def _forget(self, future: "Future[Any]") -> None:
        with self._lock:
            self._under_way.discard(future)

"""Images per second with several threads, each with a `Segmenter` of its own."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench.systems import Cached, Shots
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Rate:
    """Images per second, end to end, of so many threads: median, slowest and fastest of the rounds."""

    workers: int
    median: float
    low: float
    high: float


def measure_throughput(
    systems: Sequence[Cached],
    classes: Sequence[Shots],
    queries: Sequence[Pixels],
    workers: Sequence[int],
    *,
    calibrate: bool = True,
    seconds: float = 0.5,
    rounds: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> list[list[Rate]]:
    """Rates of every system for each number of threads, interleaved as latencies are.

    Args:
        classes: supports of each class, encoded once for all threads.
        calibrate: make the margins of several classes comparable.
        queries: uint8 RGB images [H, W, 3], taken in turn.
        workers: numbers of threads.
        seconds: for which each thread begins another image, in each round.
        progress: called after every measurement.

    Raises:
        EngineError: an engine failed.
    """
    segmenters = [system.many() for system in systems]
    names = [f"class {n}" for n in range(1, len(classes) + 1)]
    memories = [segmenter.encode_episodes(classes, names, calibrate=calibrate) for segmenter in segmenters]
    found: list[list[list[float]]] = [[[] for _ in workers] for _ in systems]
    for turn in range(rounds):
        for place, count in enumerate(workers):
            for step in range(len(systems)):
                index = (step + turn) % len(systems)
                rate = _rate(segmenters[index], memories[index], queries, count, seconds)
                found[index][place].append(rate)
                progress()
    return [
        [Rate(n, float(np.median(r)), min(r), max(r)) for n, r in zip(workers, rates, strict=True)] for rates in found
    ]


def _rate(
    segmenter: Segmenter, memory: Sequence[SupportMemory], queries: Sequence[Pixels], workers: int, seconds: float
) -> float:
    ready = threading.Barrier(workers + 1)
    done: list[tuple[int, float]] = []
    failed: list[BaseException] = []

    def work(own: Segmenter, first: int) -> None:
        try:
            own.segment(queries[first % len(queries)], memory)  # allocations of this thread
            ready.wait()
            end, count = time.perf_counter() + seconds, 0
            while count == 0 or time.perf_counter() < end:
                own.segment(queries[(first + count) % len(queries)], memory)
                count += 1
            done.append((count, time.perf_counter()))
        # raised again below, in the caller's thread
        except BaseException as error:
            failed.append(error)
            ready.abort()

    clones = [segmenter.clone() for _ in range(workers)]
    threads = [threading.Thread(target=partial(work, own, i), daemon=True) for i, own in enumerate(clones)]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if causes := [e for e in failed if not isinstance(e, threading.BrokenBarrierError)]:
        raise causes[0]
    # until the last one has ended: images that are still under way count for nothing otherwise
    return sum(count for count, _ in done) / (max(end for _, end in done) - start)

"""Queries of several clones at once, every mask compared with the one that a single thread gave before.

Equal means equal in every byte.  The single thread asks the same engine in the same precision and number of threads;
nothing is said of other engines, precisions or numbers of threads, which round differently.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from material import Material, Pixels, digest
from numpy.typing import NDArray
from usage import WARM_UP, Sample, Watch

# wrong masks that are told of; a broken engine would fill the memory with them
KEPT = 10
# pairs that all clones begin with
_HEAVY = 8
# seconds between two looks for Ctrl-C
_PATIENCE = 0.2


@dataclass
class Asked:
    """What a run of queries came to.

    Attributes:
        completed: masks that came back.
        wrong: of them, those that were another mask than the first of their pair.
        examples: JSON values of the first few of these.
        seconds: from the first query to the last mask.
    """

    completed: int = 0
    wrong: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)


class _Answer(NamedTuple):
    """Of one query; `mask` only where it is wrong."""

    number: int
    clone: int
    mask: Pixels | None


def first_masks(segmenter: Any, material: Material, advance: Callable[[], None] = lambda: None) -> list[str]:
    """For each pair the digest of its mask, found in this thread while nothing else runs."""
    found = []
    for pair in range(len(material.pairs)):
        found.append(digest(material.ask(segmenter, pair)))
        advance()
    return found


def ask(
    segmenter: Any,
    material: Material,
    expected: list[str],
    count: int,
    clones: int,
    seed: int,
    *,
    advance: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Asked:
    """Run `count` queries of random pairs on clones of a segmenter, a thread each, until `interrupted`.

    The warm-up begins with the heaviest pairs on all clones at once: memory pools keep the most that was ever needed at
    one time, which chance alone would come to much later, and then look like a leak.

    Args:
        segmenter: a `Segmenter`; of what is given here only `segment` and `clone` are used.
        expected: of `first_masks`.

    Raises:
        NtreError: that of a query which failed.
    """
    order = _order(material, count, clones, seed)
    answers: queue.SimpleQueue[_Answer | BaseException | None] = queue.SimpleQueue()
    numbers = _Shared(itertools.islice(itertools.count(), count))
    stop = threading.Event()

    def work(clone: int, own: Any) -> None:
        try:
            while not stop.is_set() and (number := numbers.take()) is not None:
                pair = int(order[number])
                mask = material.ask(own, pair)
                answers.put(_Answer(number, clone, None if digest(mask) == expected[pair] else mask))
        except BaseException as error:
            answers.put(error)
        # the thread stays until all are done, so that none of them is missed in the last samples
        answers.put(None)
        stop.wait()

    found, began = Asked(), time.perf_counter()
    threads = [threading.Thread(target=work, args=(number, segmenter.clone()), daemon=True) for number in range(clones)]
    watch = Watch(count)
    wrong: list[_Answer] = []
    try:
        for thread in threads:
            thread.start()
        working = clones
        while working and not interrupted():
            try:
                answer = answers.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                working -= 1
                continue
            found.completed += 1
            watch.count(found.completed)
            advance()
            if answer.mask is not None:
                found.wrong += 1
                if len(wrong) < KEPT:
                    wrong.append(answer)
        found.seconds = time.perf_counter() - began
        watch.look(found.completed)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for answer in wrong:
        pair = int(order[answer.number])
        found.examples.append(_example(answer, pair, material, segmenter))
    found.samples = watch.samples
    return found


def _order(material: Material, count: int, clones: int, seed: int) -> NDArray[np.int64]:
    """Number of the pair of each query, [count]."""
    order = np.random.default_rng(np.random.SeedSequence([seed, 3])).integers(len(material.pairs), size=count)
    heavy = material.heaviest(_HEAVY)
    # all clones ask for one, then all for the next
    first = np.repeat(heavy, clones)[: int(WARM_UP * count)]
    order[: len(first)] = first
    return order


def _example(answer: _Answer, pair: int, material: Material, segmenter: Any) -> dict[str, Any]:
    """A wrong mask beside the one that a single thread gives now."""
    right, wrong = material.ask(segmenter, pair), answer.mask
    assert wrong is not None
    same = right.shape == wrong.shape
    return {
        "query": answer.number,
        "clone": answer.clone,
        "pair": {"photo": material.pairs[pair].photo, "memories": list(material.pairs[pair].memories)},
        "differing_pixels": float((right != wrong).mean()) if same else 1.0,
    }


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, values: Iterator[int]) -> None:
        self._values, self._lock = values, threading.Lock()

    def take(self) -> int | None:
        """The next one; None behind the last."""
        with self._lock:
            return next(self._values, None)

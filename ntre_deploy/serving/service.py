"""One bundle being served, whatever the server: photos and supports in, results out, over a few workers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ntre_deploy.errors import InputError, TooLargeError
from ntre_deploy.runtime.cpu import usable_cores
from ntre_deploy.runtime.engines import runs_on_gpu
from ntre_deploy.runtime.imagefile import decode_image
from ntre_deploy.runtime.pictures import as_image
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.signature import Trusted
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.limits import BusyError, Limits
from ntre_deploy.serving.memories import MemoryStore
from ntre_deploy.serving.pool import Pool
from ntre_deploy.serving.supports import Picture, Pixels, Shown, Support, Supports, decode_shots

Done = TypeVar("Done")

# images of one query, where the engine gains by several: what TensorRT plans take unless they were built for more
_GPU_BATCH = 4


@dataclass
class Answer:
    """What became of a photo.

    Attributes:
        result: labels, scores and more.
        seconds: spent waiting for a worker (`queue`), on the photo's file (`decode`), on supports that were not known
            (`support`), on the network with all around it (`engine`), and on `made` (`encode`).
        made: what `finish` of `Service.submit` has made of the result.
    """

    result: Result
    seconds: dict[str, float] = field(default_factory=dict)
    made: Any = None


@dataclass(frozen=True, eq=False)
class Asked:
    """A photo of several; see `Service.submit` for each."""

    image: Picture
    name: str = "of this request"
    finish: Callable[[Result], Any] | None = None


class Service:
    """A bundle, its workers and its memories; several threads may ask.

    Attributes:
        name: of the bundle, for clients.
        segmenter: what the workers' own are clones of.
        limits: of a request.
        pool: the workers.
        memories: those that are kept by name.
    """

    def __init__(self, name: str, segmenter: Segmenter, workers: int, memories: MemoryStore, limits: Limits) -> None:
        self.name = name
        self.segmenter = segmenter
        self.pool = Pool(segmenter, workers, limits.waiting)
        self.memories = memories
        self.limits = limits
        self._supports = Supports(memories, limits)
        self._batch = _GPU_BATCH if runs_on_gpu(segmenter.engine.name) else 1

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        name: str | None = None,
        engine: str = "auto",
        precision: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        device: int = 0,
        memories: Path | None = None,
        limits: Limits | None = None,
        trusted: Trusted | None = None,
    ) -> "Service":
        """Open a bundle with an engine, run its self-test, and start its workers.

        Args:
            bundle: folder written by `ntre export`.
            name: for clients; None takes the folder's without its ending.
            engine, precision, device, trusted: see `Segmenter.load`.
            workers: photos that are worked on at once; None takes one for each processor.
            threads: CPU threads of the engine for each of them; None divides the processors among the workers.
            memories: folder for memories by name; None keeps them no longer than the process.
            limits: of requests; None takes the usual ones.

        Raises:
            InputError, EngineError: as `Segmenter.load`, or the folder for memories cannot be written to.
        """
        processors = usable_cores()
        count = processors if workers is None else workers
        if count < 1:
            raise InputError(f"{count} workers were asked for; at least 1 is needed.")
        segmenter = Segmenter.load(
            bundle,
            engine,
            precision=precision,
            threads=max(1, processors // count) if threads is None else threads,
            hint="latency" if count == 1 else "throughput",
            device=device,
            trusted=trusted,
        )
        limits = limits or Limits()
        store = MemoryStore(memories, segmenter.model.id, limits.memories)
        return cls(name or bundle_name(bundle), segmenter, count, store, limits)

    def submit(
        self,
        image: Picture,
        supports: Sequence[Support],
        *,
        deadline: float | None = None,
        name: str = "of this request",
        finish: Callable[[Result], Any] | None = None,
    ) -> "Future[Answer]":
        """Segment a photo when a worker is free.

        Args:
            image: bytes of an image file, or uint8 RGB [H, W, 3].
            supports: label n is the n-th of them.
            deadline: of `time.monotonic`; None gives it the seconds of the limits.
            name: of the photo, for messages.
            finish: makes something of the result on the worker's thread too, for `Answer.made`.

        Raises:
            BusyError, ClosedError: it is not accepted; see `Pool.submit`.
            InputError: no support, or more than the limits allow.  Of the future: something cannot be read.
            EngineError: of the future: the engine failed.
        """
        self._supports.check(supports)
        begun = time.monotonic()

        def work(segmenter: Segmenter) -> Answer:
            times = _Times(begun)
            times.note("queue")
            pixels = self._decoded(image, name)
            times.note("decode")
            memories = self._supports.memories(supports, segmenter)
            times.note("support")
            result = segmenter.segment_result(pixels, memories)
            # made here rather than on the thread that answers
            _ = result.scores
            times.note("engine")
            made = None if finish is None else finish(result)
            times.note("encode")
            return Answer(result, times.seconds, made)

        return self.run(work, deadline)

    def run(self, work: Callable[[Segmenter], Done], deadline: float | None = None) -> "Future[Done]":
        """Have a worker do something else with its segmenter; see `submit`."""
        return self.pool.submit(work, time.monotonic() + self.limits.seconds if deadline is None else deadline)

    def segment(self, image: Picture, supports: Sequence[Support]) -> Result:
        """As `submit`, and wait for the result."""
        return self.submit(image, supports).result().result

    def submit_together(
        self, photos: Sequence[Asked], supports: Sequence[Support], *, deadline: float | None = None
    ) -> "Future[list[Answer | Exception]]":
        """Segment photos that share supports by one query, as one piece of work; see `submit`.

        Args:
            photos: of a TensorRT plan at most its `--max-batch`.

        Returns:
            for each photo what became of it, or what was wrong with it.

        Raises:
            BusyError, ClosedError, InputError, EngineError: as `submit`; the latter two of the future are wrong with
                all of them.
        """
        self._supports.check(supports)
        begun = time.monotonic()

        def work(segmenter: Segmenter) -> list[Answer | Exception]:
            times = _Times(begun)
            times.note("queue")
            memories = self._supports.memories(supports, segmenter)
            times.note("support")
            names = iter(photos)
            found = _each(
                [photo.image for photo in photos],
                lambda image: self._decoded(image, next(names).name),
                lambda pixels: segmenter.segment_results(pixels, memories),
            )
            times.note("engine")
            answers: list[Answer | Exception] = []
            for photo, one in zip(photos, found, strict=True):
                if isinstance(one, Exception):
                    answers.append(one)
                    continue
                _ = one.scores
                answers.append(Answer(one, dict(times.seconds), photo.finish(one) if photo.finish else None))
            return answers

        return self.run(work, deadline)

    def segment_many(self, images: Sequence[Picture], supports: Sequence[Support]) -> "list[Result | Exception]":
        """Segment photos that share supports: with one query for several on a GPU, else over the workers.

        Args:
            images, supports: as in `submit`.

        Returns:
            for each photo its result, or what was wrong with it.

        Raises:
            BusyError, ClosedError: nothing was accepted.
            InputError, EngineError: what is wrong with all of them.
        """
        self._supports.check(supports)

        photos = [Asked(image) for image in images]
        futures: list[Future[list[Answer | Exception]]] = []
        try:
            for first in range(0, len(photos), self._batch):
                futures.append(self.submit_together(photos[first : first + self._batch], supports))
        except BusyError:
            for future in futures:
                future.cancel()
            raise
        answers = [answer for future in futures for answer in future.result()]
        return [answer if isinstance(answer, Exception) else answer.result for answer in answers]

    def remember(self, name: str, shots: Sequence[tuple[Picture, Picture]]) -> "Future[SupportMemory]":
        """Encode a class and keep its memory under a name, with the scores of its shots where there are several.

        Args:
            shots: as in `Shown`.

        Raises:
            BusyError, ClosedError: it is not accepted.
            InputError: no shots or too many.  Of the future: one cannot be used, or as `MemoryStore.put`.
            EngineError: of the future: the engine failed.
        """
        shown = Shown(name, tuple(shots))
        self._supports.check([shown])

        def work(segmenter: Segmenter) -> SupportMemory:
            return self.memories.put(name, segmenter.encode_support(decode_shots(shown, self.limits), name))

        return self.run(work)

    def close(self, seconds: float | None = None) -> int:
        """Answer what was accepted, and end; see `Pool.drain`."""
        return self.pool.drain(seconds)

    def _decoded(self, image: Picture, name: str = "of this request") -> Pixels:
        if isinstance(image, bytes):
            return decode_image(image, name, max_pixels=self.limits.pixels)
        if image.size // 3 > self.limits.pixels:
            raise TooLargeError(
                f"Image {name} has {image.size // 3:,} pixels; at most {self.limits.pixels:,} are read."
            )
        return image


def bundle_name(bundle: str | Path) -> str:
    """What a bundle is called where nobody has named it: its folder without the ending."""
    return Path(bundle).resolve().name.removesuffix(".ntre")


def _each(
    images: Sequence[Picture],
    decode: Callable[[Picture], Pixels],
    segment: Callable[[list[Pixels]], list[Result]],
) -> "list[Result | Exception]":
    """Results of those that can be read, in their places, and what was wrong with the others."""
    read: list[Pixels | Exception] = []
    for image in images:
        try:
            # as the engine takes it, so that one photo's fault stays its own
            read.append(as_image(decode(image)))
        except InputError as error:
            read.append(error)
    pixels = [one for one in read if not isinstance(one, Exception)]
    results = iter(segment(pixels) if pixels else ())
    return [one if isinstance(one, Exception) else next(results) for one in read]


class _Times:
    def __init__(self, begun: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = begun

    def note(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = now - self._last
        self._last = now

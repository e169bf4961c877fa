"""Photos of different requests through the engine by one query, where their supports are the same."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ray import serve

from ntre_deploy.runtime.results.result import Result
from ntre_deploy.serving.service import Answer, Asked, Service
from ntre_deploy.serving.supports import Picture, Support, supports_key


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request's photo, which waits for others.

    Attributes:
        photo, supports: what is asked for.
        deadline: of `time.monotonic`.
    """

    photo: Asked
    supports: Sequence[Support]
    deadline: float


class BatchingService(Service):
    """A service whose requests wait a moment for others, on the event loop of a replica; see `gather`."""

    # that of the usual service where nothing was set
    _batch_size = 1

    def gather(self, batch: int | None, seconds: float) -> None:
        """Set how many photos one query takes, and how long the first of them waits for others; see `Wanted.batch`."""
        self._batch_size = self._batch if batch is None else batch
        self._together.set_max_batch_size(self._batch_size)  # type: ignore[attr-defined]
        self._together.set_batch_wait_timeout_s(seconds)  # type: ignore[attr-defined]

    def submit(
        self,
        image: Picture,
        supports: Sequence[Support],
        *,
        deadline: float | None = None,
        name: str = "of this request",
        finish: Callable[[Result], Any] | None = None,
    ) -> "Future[Answer]":
        """As `Service.submit`, from the event loop; what is refused is told by the future.

        Raises:
            InputError: no support, or more than the limits allow.  All else of the future.
        """
        if self._batch_size == 1:
            return super().submit(image, supports, deadline=deadline, name=name, finish=finish)
        self._supports.check(supports)
        end = time.monotonic() + self.limits.seconds if deadline is None else deadline
        waiting = Waiting(Asked(image, name, finish), supports, end)
        return asyncio.run_coroutine_threadsafe(self._answer(waiting), asyncio.get_running_loop())

    async def _answer(self, waiting: Waiting) -> Answer:
        answer: Answer | Exception = await self._together(waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0, max_concurrent_batches=64)
    async def _together(self, waiting: list[Waiting]) -> "list[Answer | Exception]":
        return await self.answers(waiting)

    async def answers(self, waiting: Sequence[Waiting]) -> "list[Answer | Exception]":
        """Answer what has come together: those with the same supports by one query.

        Returns:
            for each photo what became of it, or what was wrong with it or its queue.
        """
        groups: dict[bytes, list[int]] = {}
        for place, one in enumerate(waiting):
            groups.setdefault(supports_key(one.supports), []).append(place)
        answers: list[Answer | Exception] = [RuntimeError("no answer")] * len(waiting)

        async def do(places: list[int]) -> None:
            group = [waiting[place] for place in places]
            try:
                deadline = max(one.deadline for one in group)
                photos = [one.photo for one in group]
                future = self.submit_together(photos, group[0].supports, deadline=deadline)
                found = await asyncio.wrap_future(future)
            # of each request, which answers by it
            except Exception as error:
                found = [error] * len(group)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer

        await asyncio.gather(*map(do, groups.values()))
        return answers

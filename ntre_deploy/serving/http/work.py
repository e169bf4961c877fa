"""Waiting for a worker without keeping the event loop, or work that nobody waits for any more."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from ntre_deploy.errors import InputError, TooLargeError
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.serving.http.answers import UnusableError
from ntre_deploy.serving.http.gate import Exchange
from ntre_deploy.serving.http.metrics import Metrics
from ntre_deploy.serving.limits import BusyError, ClosedError, LateError, MissingError
from ntre_deploy.serving.service import Answer, Service
from ntre_deploy.serving.supports import Picture, Support

Done = TypeVar("Done")


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo of a request: the bytes of its file, or uint8 RGB [H, W, 3]; and its file's name, which may be empty."""

    picture: Picture
    name: str = ""


def exchange_of(request: Request) -> Exchange:
    """What the gate knows of a request."""
    exchange: Exchange = request.scope["ntre"]
    return exchange


async def segmented(
    request: Request,
    service: Service,
    metrics: Metrics,
    photos: Sequence[Photo],
    supports: Sequence[Support],
    finish: Callable[[Result, str], Any],
) -> list[Answer]:
    """Segment the photos of a request, as many at once as there are workers.

    Args:
        finish: makes of a photo's result and its file's name what `Answer.made` holds; on the worker's thread.

    Raises:
        UnusableError: a photo, mask or memory cannot be used; nothing of the others is answered then.
        BusyError, ClosedError, LateError, ClientDisconnect, EngineError: see `Service.submit` and `finished`.
    """
    deadline = exchange_of(request).deadline
    under_way: deque[Future[Answer]] = deque()
    answers: list[Answer] = []

    async def next_one() -> None:
        answer = await finished(under_way.popleft(), request)
        metrics.photo(service.name, answer.seconds)
        answers.append(answer)

    try:
        for number, photo in enumerate(photos, 1):
            name = photo.name or ("of this request" if len(photos) == 1 else f"{number} of this request")
            while True:
                try:
                    made = partial(_named, finish, photo.name)
                    under_way.append(service.submit(photo.picture, supports, deadline=deadline, name=name, finish=made))
                    break
                except BusyError:
                    # its own photos are in the way, or those of others
                    if not under_way:
                        raise
                    await next_one()
            if len(under_way) >= service.pool.workers:
                await next_one()
        while under_way:
            await next_one()
    except Exception:
        metrics.failed.labels(service.name).inc(len(photos) - len(answers))
        raise
    finally:
        for future in under_way:
            future.cancel()
    return answers


async def finished(future: "Future[Done]", request: Request) -> Done:
    """The result of work on another thread; what has not begun is given up where nobody waits for it any more.

    Args:
        request: whose body has been read.

    Raises:
        UnusableError: a photo, mask or memory cannot be used.
        LateError: the time of the request is over.
        ClientDisconnect: the client has gone.
        ClosedError: the server has ended before.
    """
    waited = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_gone(request))
    left = exchange_of(request).deadline - time.monotonic()
    try:
        await asyncio.wait((waited, gone), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if waited.done():
            return waited.result()
        if gone.done():
            raise ClientDisconnect
        raise LateError("The time of this request was over before its answer was there; try again later.")
    except asyncio.CancelledError:
        if waited.cancelled():
            raise ClosedError("The server has ended before this request was begun; try another one.") from None
        raise
    except (MissingError, TooLargeError):
        raise
    except InputError as error:
        raise UnusableError(str(error)) from error
    finally:
        # on to `future`, which does not begin then
        waited.cancel()
        gone.cancel()


def _named(finish: Callable[[Result, str], Any], name: str, result: Result) -> Any:
    return finish(result, name)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

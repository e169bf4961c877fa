"""A replica: the HTTP application around a bundle, which another one can take the place of while requests come in."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from ntre_deploy.errors import NtreError
from ntre_deploy.serving.cluster.batching import BatchingService
from ntre_deploy.serving.cluster.wanted import Wanted
from ntre_deploy.serving.http.application import create_app
from ntre_deploy.serving.http.logs import event
from ntre_deploy.serving.http.serving import Serving

# between looks at whether an application that was replaced has answered everything
_LOOK = 0.05


class Door:
    """Where requests come in: each goes to the application that stands behind it when it comes, to its end."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; Ray Serve's own start and end of an application need nothing here."""
        if scope["type"] == "lifespan":
            while True:
                stage = (await receive())["type"]
                await send({"type": f"{stage}.complete"})
                if stage == "lifespan.shutdown":
                    return
        assert self.app is not None, "Ray Serve configures a replica before requests reach it"
        await self.app(scope, receive, send)


# a process has one replica, whose class travels without it
_DOOR = Door()


def door() -> Door:
    """That of this process."""
    return _DOOR


@serve.ingress(door)
class Replica:
    """Serves what its `user_config` says; see `Wanted`."""

    def __init__(self) -> None:
        self._wanted: Wanted | None = None
        self._serving: Serving | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def reconfigure(self, given: Mapping[str, Any]) -> None:
        """Serve what is wanted now; requests go on meanwhile, and those that were accepted are answered as before.

        A configuration that cannot be served is logged, and what is served stays, unless there is nothing yet.

        Raises:
            InputError, EngineError: the first configuration cannot be served.
        """
        try:
            wanted = Wanted.read(given)
            if wanted == self._wanted:
                return
            services = await asyncio.to_thread(_opened, wanted)
        except NtreError as error:
            if self._serving is None:
                raise
            event("not replaced", logging.ERROR, message=str(error))
            return
        app = create_app(services, wanted.settings())
        before, self._serving, self._wanted = self._serving, app.state.serving, wanted
        door().app = app
        event("serving", bundles={name: service.segmenter.reason for name, service in services.items()})
        if before is not None:
            ending = asyncio.create_task(_end(before))
            # kept, as asyncio itself forgets tasks
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def check_health(self) -> None:
        """Ray Serve replaces a replica of which this fails.

        Raises:
            RuntimeError: it does not serve.
        """
        if self._serving is None or not self._serving.ready:
            raise RuntimeError("nothing is served")


def _opened(wanted: Wanted) -> dict[str, BatchingService]:
    opened: dict[str, BatchingService] = {}
    try:
        for name, folder in wanted.bundles.items():
            service = BatchingService.open(
                folder,
                name=name,
                engine=wanted.engine,
                precision=wanted.precision,
                workers=wanted.workers,
                threads=wanted.threads,
                device=wanted.device,
                memories=None if wanted.memories is None else Path(wanted.memories) / name,
                limits=wanted.settings().limits,
                trusted=list(map(Path, wanted.trusted)) or None,
            )
            assert isinstance(service, BatchingService)
            service.gather(wanted.batch, wanted.batch_seconds)
            opened[name] = service
    except BaseException:
        for service in opened.values():
            service.close(0)
        raise
    return opened


async def _end(serving: Serving) -> None:
    """Let an application go when it has answered everything."""
    while serving.accepted:
        await asyncio.sleep(_LOOK)
    await asyncio.to_thread(serving.close)

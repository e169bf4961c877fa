"""uvicorn with an end that answers everything that was accepted, and with clients that are too slow cut off."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ntre_deploy.errors import InputError
from ntre_deploy.serving.http.connections import protocol
from ntre_deploy.serving.http.logs import event
from ntre_deploy.serving.http.serving import Serving

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# of connections that have nothing under way
_KEEP_ALIVE = 30
# seconds for answers on their way when the server ends
_FLUSH = 3
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address.

    Raises:
        InputError: it cannot be had.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # with the protocol named, asyncio sends at once (TCP_NODELAY); else answers wait 40 ms for an acknowledgement
        listening = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise InputError(
            f"Port {port} of {host} cannot be had: {error.strerror or error}; give another --port or --host."
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """The address of a socket, for people."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listening: socket.socket, drain_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT: what was accepted is answered then, and new requests are refused meanwhile.

    A second signal ends the process at once.

    Args:
        app: of `create_app`.
        listening: closed at the end.
        drain_seconds: for what was accepted; what is not done by then is given up.

    Raises:
        InputError, EngineError: the bundles could not be loaded.
    """
    serving: Serving = app.state.serving
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=protocol(),
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_FLUSH,
        lifespan="on",
    )
    server = _Draining(config, serving, drain_seconds)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
    if serving.failed is not None:
        raise serving.failed
    if server.undone or serving.loading:
        # a thread in the middle of the engine cannot be stopped, and Python would wait for it
        sys.stderr.flush()
        os._exit(0)


class _Draining(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, serving: Serving, seconds: float) -> None:
        super().__init__(config)
        self._serving = serving
        self._seconds = seconds
        self._until: float | None = None
        self._told: set[str] = set()
        self.undone = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Python gives signals to the main thread alone
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._until is not None:
            os._exit(128 + sig)
        self._until = time.monotonic() + self._seconds
        self._serving.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            address = address_of(listening)
            event("listening", address=address, docs=f"{address}/docs")

    async def on_tick(self, counter: int) -> bool:
        serving = self._serving
        if await super().on_tick(counter) or serving.failed is not None:
            return True
        if serving.state not in self._told:
            self._told.add(serving.state)
            engines = {name: service.segmenter.reason for name, service in serving.services.items()}
            event(serving.state, bundles=engines, accepted=serving.accepted)
        return self._until is not None and (serving.accepted == 0 or time.monotonic() > self._until)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._serving.accepted:
            # what waits is refused now, and what runs has the time of `_FLUSH`
            self.undone = await asyncio.get_running_loop().run_in_executor(None, self._serving.close, 0)
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)
        event("ended", undone=self.undone)

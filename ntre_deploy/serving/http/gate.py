"""What every request passes: its id, its key, the limits of its body and time, figures and a line in the log.

Plain ASGI around the whole application; nothing is read before it is known that the request is taken.
"""

import itertools
import logging
import re
import secrets
import time
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ntre_deploy.errors import NtreError, TooLargeError
from ntre_deploy.serving.http import access
from ntre_deploy.serving.http.answers import line_of, refused, status_of
from ntre_deploy.serving.http.logs import event
from ntre_deploy.serving.http.metrics import Metrics
from ntre_deploy.serving.http.serving import Serving
from ntre_deploy.serving.http.settings import Settings
from ntre_deploy.serving.limits import ClosedError

_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# what is read of the body of a refused request, so that its client comes to read the answer: bytes, seconds
_LINGER_BYTES, _LINGER_SECONDS = 64 << 20, 5.0
# a body so small that has come whole by then is read before the answer, so that its connection can be kept: where many
# are refused, new connections cost more than all else about them
_SMALL_BYTES, _SMALL_SECONDS = 1 << 20, 0.05
# ids of this process: random, and then by number
_ORIGIN, _NUMBERS = secrets.token_hex(4), itertools.count(1)
# of a client that has gone before its answer; never sent
_GONE = 499
_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


class Gate:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, serving: Serving, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._serving = serving
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._serving, self._settings)
        try:
            await self._admitted(exchange)
            exchange.accept()
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _GONE
        except Exception as error:
            if not isinstance(error, NtreError | HTTPException):
                event("defect", logging.ERROR, error=error, id=exchange.id)
            if exchange.status == 0:
                exchange.note(error)
                await refused(error)(scope, exchange.receive, exchange.send)
            else:  # half an answer must not look like a whole one
                raise
        finally:
            exchange.release()
            self._note(exchange)

    async def _admitted(self, exchange: "Exchange") -> None:
        path = exchange.scope["path"]
        if (no := access.refusal(exchange.headers, path, self._settings)) is not None:
            headers = {"www-authenticate": "Bearer"} if no[0] == 401 else None
            raise HTTPException(no[0], no[1], headers)
        if self._serving.draining and path not in access.LASTING:
            raise ClosedError("The server is ending and takes nothing new; try another one.")
        exchange.check_length()

    def _note(self, exchange: "Exchange") -> None:
        scope, seconds = exchange.scope, time.monotonic() - exchange.began
        # the pattern and not the path, of which there are endlessly many
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if route != "other" else "other"
        self._metrics.requests.labels(route, method, str(exchange.status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        quiet = scope["path"] in (*access.PROBES, "/metrics") and exchange.status < 400
        if self._settings.log_requests and not quiet:
            event(
                "request",
                logging.WARNING if exchange.status >= 500 else logging.INFO,
                id=exchange.id,
                method=scope["method"],
                path=scope["path"][:500],
                status=exchange.status,
                ms=round(seconds * 1000, 2),
                bytes_in=exchange.bytes_in,
                bytes_out=exchange.bytes_out,
                client=(scope.get("client") or ("",))[0],
                **exchange.told,
            )


class Exchange:
    """A request and its answer under way.

    Attributes:
        id: the client's, where it gave one that can be printed.
        status: of the answer; 0 before there is one.
        told: more for the log, such as the bundle.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, serving: Serving, settings: Settings) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.began = time.monotonic()
        given = self.headers.get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else f"{_ORIGIN}{next(_NUMBERS):08x}"
        self.status = self.bytes_in = self.bytes_out = 0
        self.told: dict[str, Any] = {}
        self._receive = receive
        self._send = send
        self._serving = serving
        self._limits = settings.limits
        self._held = self._accepted = 0
        self._asked = False
        self._whole = self.headers.get("content-length", "0") == "0" and "transfer-encoding" not in self.headers
        scope["ntre"] = self

    @property
    def _announced(self) -> int:
        """Bytes of the body by its head; 0 where it tells none."""
        length = self.headers.get("content-length", "0")
        return int(length) if length.isdecimal() else 0

    @property
    def deadline(self) -> float:
        """When the answer has to be there, of `time.monotonic`."""
        return self.began + self._limits.seconds

    def check_length(self) -> None:
        """Refuse a body that is announced as too large.

        Raises:
            TooLargeError: it is.
        """
        if self._announced > self._limits.body_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, within the limits.

        Raises:
            TooLargeError: the body is larger than may be.
            HTTPException: it does not come in time (408).
            BusyError: bodies of all requests are more than may be held.
        """
        self._asked = True
        if self._whole:
            return await self._receive()
        with anyio.move_on_after(max(0.0, self.deadline - time.monotonic())) as timer:
            message = await self._receive()
        if timer.cancelled_caught:
            raise HTTPException(
                408, f"The body did not come within {self._limits.seconds:g} s, of which {self.bytes_in:,} bytes did."
            )
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            self.bytes_in += size
            if self.bytes_in > self._limits.body_bytes:
                raise self._too_large()
            self._serving.hold(size)
            self._held += size
        return message

    def note(self, error: Exception) -> None:
        """Have the log tell why it was the server's fault; what clients do wrong may hold what is theirs."""
        if status_of(error) >= 500:
            self.told["error"] = line_of(error)

    def accept(self) -> None:
        """The server does not end before this has been answered."""
        self._accepted = 1
        self._serving.accepted += 1

    def release(self) -> None:
        """The answer is made, and the body not needed any more."""
        self._serving.release(self._held)
        self._serving.accepted -= self._accepted
        self._held = self._accepted = 0

    async def send(self, message: Message) -> None:
        """Hand on a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self._whole and 0 < self._announced <= _SMALL_BYTES:
                await self._skip(_SMALL_BYTES, _SMALL_SECONDS)
            headers = MutableHeaders(raw=list(message["headers"]))
            headers["x-request-id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            # the rest of the body would be taken for the next request
            if not self._whole or self._serving.draining:
                headers["connection"] = "close"
            message = {**message, "headers": headers.raw}
        else:
            self.bytes_out += len(message.get("body", b""))
            if not self._whole and not message.get("more_body", False):
                await self._send({**message, "more_body": True})
                self.release()
                await self._skip(_LINGER_BYTES, _LINGER_SECONDS)
                message = {**message, "body": b""}
        await self._send(message)

    async def _skip(self, left: int, seconds: float) -> None:
        """Let a client that is still sending come to its end: one whose connection breaks does not read the answer."""
        # who waits to be asked for the body must not be asked now
        if "expect" in self.headers and not self._asked:
            return
        with anyio.move_on_after(seconds):
            while not self._whole and left > 0:
                message = await self._receive()
                left -= len(message.get("body", b""))
                self._whole = not message.get("more_body", False)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The body is larger than the {self._limits.body_bytes:,} bytes that this server takes.")

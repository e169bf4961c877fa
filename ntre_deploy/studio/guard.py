"""Who may speak to the studio: the page that it serves itself, opened by the address that it printed; nobody else."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ntre_deploy.studio import policy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

API = "/api/"
TOKEN_HEADER = "x-studio-token"

HEADERS = policy.HEADERS | {"cache-control": "no-store"}


class Guard:
    """ASGI middleware in front of everything.

    The page's files hold no secret and are given to anyone who asks 127.0.0.1 by its name; whatever is under `API`
    needs the token in a header, which a page of another site cannot send.  The host is compared to the letter, so that
    a foreign name that resolves to 127.0.0.1 (DNS rebinding) reaches nothing.

    Args:
        app: what is guarded.
        token: what requests under `API` must bring.
        port: where the server listens.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it; in either case with the headers that bind the page."""
        if scope["type"] != "http":
            return

        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._app(scope, receive, bound)
        else:
            status, why = refused
            await JSONResponse({"error": why}, status)(scope, receive, bound)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 421, f"This server answers to {self._hosts[0]} only."
        if origins and origins != [f"http://{hosts[0]}"]:
            return 403, "Requests of other sites are refused."
        if not scope["path"].startswith(API):
            return None if scope["method"] in ("GET", "HEAD") else (405, "Only GET is known here.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "Requests of other sites are refused."
        given = headers.get(TOKEN_HEADER, "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, self._token):
            return 401, "The token is missing or wrong; open the address that `ntre studio` printed."
        return None

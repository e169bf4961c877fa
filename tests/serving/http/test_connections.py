"""Clients that do not come to the end of a request's head."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from ntre_deploy.serving.http import connections
from ntre_deploy.serving.http.application import create_app
from ntre_deploy.serving.http.server import listen
from tests.serving.http.conftest import PATIENCE  # type: ignore[import-not-found]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server in this process that waits for half a second."""
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.5)
    kind = connections.protocol()
    if isinstance(kind, str):
        pytest.skip("httptools is not installed")
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app({}), http=kind, log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE)


def received(port: int, *sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        for part in sent:
            connection.sendall(part)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: "])
def test_one_that_stops_is_let_go(sent: bytes, port: int) -> None:
    assert received(port, sent).partition(b"\r\n")[0] in (b"", b"HTTP/1.1 408 Request Timeout")
    assert bool(received(port, sent)) == bool(sent)


def test_one_that_goes_on_is_served(port: int) -> None:
    good = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    assert received(port, good, b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
    # two on one connection, and then none
    both: Any = received(port, good + b"\r\n" + good + b"\r\n" + b"GET")
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.endswith(b"connection: close\r\n\r\n")

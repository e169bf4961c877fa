"""`ntre serve` as a user has it, in its own process; and the application without a network, to see into it."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

for _needed in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(_needed, reason="the extra `serve` is not installed")

SCRIPT = Path(sys.executable).parent / "ntre"
# seconds; the machines that run this are busy
PATIENCE = 120


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        content = self.json
        assert list(content) == ["error"]
        assert "\n" not in content["error"]
        assert "Traceback" not in content["error"]
        return str(content["error"])


Part = tuple[str, bytes | str] | tuple[str, bytes, str]
_BOUNDARY = "------a-boundary"


def form(*parts: Part) -> tuple[bytes, str]:
    """A multipart body and its type: bytes become files (whose name may be third), texts become fields."""
    body = b""
    for name, value, *rest in parts:
        file = f'; filename="{rest[0] if rest else name}"' if isinstance(value, bytes) else ""
        body += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass
class Server:
    """A running `ntre serve`."""

    process: "subprocess.Popen[str]"
    port: int = 0
    said: list[str] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        parts: Sequence[Part] | None = None,
        **options: Any,
    ) -> Answer:
        headers = dict(headers or {})
        if parts is not None:
            body, headers["Content-Type"] = form(*parts)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers, **options)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ready(self) -> "Server":
        self.wait(lambda: self.ask("GET", "/readyz").status == 200, "it is never ready")
        return self

    def wait(self, true: Callable[[], bool], why: str) -> None:
        for _ in range(PATIENCE * 20):
            if self.process.poll() is not None:
                pytest.fail(f"it has ended with {self.process.returncode}: {self.said}")
            if true():
                return
            time.sleep(0.05)
        pytest.fail(f"{why}: {self.said}")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said]

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Server]:
    command = [str(SCRIPT), "serve", *map(str, arguments)]
    if "--port" not in command:
        command += ["--port", "0"]
    more = {"OMP_NUM_THREADS": "1"} | (env or {})
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd, env=os.environ | more)
    server = Server(process)
    listening = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.said.append(line)
            if not server.port and '"listening"' in line:
                server.port = int(json.loads(line)["address"].rpartition(":")[2])
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(PATIENCE), server.said
        assert server.port, f"it does not listen: {server.said}"
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join(PATIENCE)


@pytest.fixture
def serve(exported: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start one, with the tiny bundle where no other is named; those that run are ended by the test's end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str | Path, bundles: Sequence[str | Path] = (), **options: Any) -> Server:
            given = [*(bundles or [exported]), *arguments]
            return stack.enter_context(serving(*given, cwd=tmp_path, **options))

        yield start


@pytest.fixture(scope="session")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory, files: list[SimpleNamespace]) -> Iterator[Server]:
    """One for many tests, with two names of the tiny bundle and the memory `disc` in the first."""
    folder = tmp_path_factory.mktemp("serve")
    limits = ("--max-body", "2", "--max-pixels", "3", "--workers", "2")
    with serving(exported, f"other={exported}", *limits, cwd=folder) as running:
        running.ready()
        parts = [("photo", files[0].photo), ("mask", files[0].mask)]
        assert running.ask("PUT", "/memories/disc", parts=parts).status == 201
        yield running


Application = Callable[..., Awaitable[Answer]]


@contextlib.asynccontextmanager
async def living(app: Any) -> AsyncIterator[Application]:
    """An application with its lifespan, asked without a network: `await ask("GET", "/readyz")`."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    done = [asyncio.Event(), asyncio.Event()]

    async def told(message: dict[str, Any]) -> None:
        assert message["type"].endswith(".complete"), message
        done[message["type"].startswith("lifespan.shutdown")].set()

    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, incoming.get, told))
    await incoming.put({"type": "lifespan.startup"})
    await done[0].wait()

    async def ask(
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: dict[str, str] | None = None,
        *,
        parts: Sequence[Part] | None = None,
        gone: asyncio.Event | None = None,
        more: asyncio.Event | None = None,
    ) -> Answer:
        """`gone`: the client goes when it is set; `more`: the rest of the body comes when it is set."""
        given = dict(headers or {})
        if parts is not None:
            body, given["Content-Type"] = form(*parts)
        chunks = [body] if isinstance(body, bytes) else list(body)
        given.setdefault("Content-Length", str(sum(map(len, chunks))))
        route, _, query = path.partition("?")
        raw = [
            (name.lower().encode(), value.encode("latin-1")) for name, value in ({"Host": "localhost"} | given).items()
        ]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": route}
        scope |= {"raw_path": route.encode(), "query_string": query.encode(), "headers": raw, "scheme": "http"}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", "state": {}}
        sent: list[dict[str, Any]] = []
        position = 0

        async def receive() -> dict[str, Any]:
            nonlocal position
            if position == len(chunks):
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            if position and more is not None:
                await more.wait()
            position += 1
            return {"type": "http.request", "body": chunks[position - 1], "more_body": position < len(chunks)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        if not sent:
            return Answer(0, {}, b"")
        found = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]))

    try:
        yield ask
    finally:
        await incoming.put({"type": "lifespan.shutdown"})
        await done[1].wait()
        await task

"""`ntre serve` as a process of its own, what it holds of the machine, and a client that keeps its connection."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bodies import TARGET, Body
from usage import Sample  # type: ignore[import-not-found]

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.support import SupportMemory

# for a start, an answer and an end, in seconds
PATIENCE = 300
_STEP = 0.02
# in which connections that have ended are closed on the server's side too
_SETTLE = 2.0


class Client:
    """One connection, which stays."""

    def __init__(self, address: str) -> None:
        host = address.removeprefix("http://")
        # http.client sends at once (TCP_NODELAY)
        self._connection = http.client.HTTPConnection(host, timeout=PATIENCE)

    def ask(self, method: str, path: str, data: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body of an answer.

        Raises:
            EngineError: none comes.
        """
        try:
            self._connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{method} {path} was not answered: {error or type(error).__name__}.") from error

    def post(self, body: Body) -> tuple[int, Any, bytes]:
        """The answer to a body; see `ask`."""
        return self.ask("POST", body.path, body.data, Content_Type=body.kind, **body.headers)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@dataclass
class Server:
    """A server that runs.

    Attributes:
        process: it; its children count as parts of it.
        address: `http://127.0.0.1:PORT`.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    address: str = ""
    _began: float = field(default_factory=time.perf_counter)
    _files: int | None = None

    def wait(self, there: Callable[[], bool], what: str) -> None:
        """Wait until something is there.

        Raises:
            EngineError: the server has ended, or it does not come.
        """
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise EngineError(f"The server has ended with {self.process.returncode}: {self.said()}")
            if there():
                return
            time.sleep(_STEP)
        raise EngineError(f"{what} did not come within {PATIENCE} s: {self.said()}")

    def said(self) -> str:
        """The end of its log, in one line."""
        return " ".join(self.log.read_text(errors="replace").split())[-600:]

    def answers(self, path: str) -> bool:
        """Whether it answers to GET with 200."""
        client = Client(self.address)
        with suppress(EngineError):
            return client.ask("GET", path)[0] == 200
        client.close()
        return False

    def processes(self) -> list[int]:
        """Its id and those of all processes below it."""
        found = [self.process.pid]
        for pid in found:
            with suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """Processor time of its processes until now."""
        ticks = 0
        for pid in self.processes():
            with suppress(OSError):
                # behind the name, which may hold anything: state is the first
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(values[11]) + int(values[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def sample(self, done: int = 0, connections: int = 0) -> Any:
        """Memory, open files and threads, once connections that have ended are closed.

        Args:
            done: requests until now.
            connections: that stay open.

        Raises:
            EngineError: the system does not tell (no /proc).
        """
        # a connection's end reaches the server a moment after its client
        end, files = time.monotonic() + _SETTLE, self._count("fd")
        while self._files is not None and files > self._files + connections and time.monotonic() < end:
            time.sleep(_STEP)
            files = self._count("fd")
        # what is left open behind a run counts as usual for the next one, so that it is waited for once
        self._files = files - connections
        return Sample(done, time.perf_counter() - self._began, self.resident_bytes(), files, self._count("task"))

    def resident_bytes(self) -> int:
        """Resident memory of its processes; pages that they share count for each."""
        total = 0
        for pid in self.processes():
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))
        if total == 0:
            raise EngineError("The server's memory cannot be read from /proc; run it on Linux.")
        return total

    def _count(self, what: str) -> int:
        total = 0
        for pid in self.processes():
            with suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/{what}"))
        return total

    def stop(self) -> None:
        """End it, and what is below it."""
        below = self.processes()[1:]
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


@contextmanager
def serving(bundle: Path, memory: SupportMemory, folder: Path, name: str, *options: str) -> Iterator[Server]:
    """`ntre serve` with a bundle called `name` and the memory `TARGET`, ready for requests.

    Args:
        folder: for its log and memories.
        options: further ones of the command.

    Raises:
        EngineError: it cannot be started, or does not take the memory.
    """
    log = folder / "serve.log"
    command = [str(Path(sys.executable).with_name("ntre")), "serve", f"{name}={bundle}", "--port", "0"]
    command += ["--memories", str(folder / "memories"), *options]
    with log.open("wb") as file:
        # Ctrl-C is for the benchmark, which ends its server
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    server = Server(process, log)
    try:
        server.wait(lambda: bool(_address(log)), "The server's address")
        server.address = _address(log)
        server.wait(lambda: server.answers("/readyz"), "The server's readiness")
        put = Client(server.address)
        kind = "application/octet-stream"
        status, _, said = put.ask("PUT", f"/memories/{TARGET}", memory.to_bytes(), Content_Type=kind)
        put.close()
        if status != 201:
            raise EngineError(f"The server does not take the memory ({status}): {said[:300].decode(errors='replace')}")
        yield server
    finally:
        server.stop()


def _address(log: Path) -> str:
    """Where it says to listen, or nothing yet."""
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and told.get("event") == "listening":
                return str(told["address"])
    return ""

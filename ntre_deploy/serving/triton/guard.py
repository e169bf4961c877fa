"""A small process beside each of Triton's: when that is killed, it has the model loaded anew.

Triton (2.47 on) leaves a process of its Python backend that has died as it is: the server stays ready, and requests
that come to that instance fail.  What a server offers is to load a model again, which it does only for files that have
changed.  Of what was loaded before, it then waits for the end of the dead process without end, and so leaves the others
running; their guards end them as soon as they have nothing to do.
"""

import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.parse import quote

_GOODBYE = b"end\n"
# of one attempt: a model has to load
_SECONDS = 600.0
_ATTEMPTS = 10
_PAUSE = 1.0
# from new processes' start until a server that polls has turned to them
_WARMUP = 10.0
# a process that took less than this share of a processor in that time has nothing to do
_IDLE, _WINDOW = 0.05, 2.0


class Guard:
    """The watched process's side: the guard sees its end by that of a pipe."""

    def __init__(self, process: "subprocess.Popen[bytes] | None") -> None:
        self._process = process

    @classmethod
    def start(cls, model: str, server: str, file: Path, server_pid: int) -> "Guard":
        """Have this process watched.

        Args:
            model: name of the model.
            server: address of Triton's HTTP; empty where it cannot be asked, as where it polls its repository.
            file: of the version's folder, which is touched so that Triton sees a change.
            server_pid: of the server; nothing is done when it has ended too.
        """
        command = [sys.executable, "-m", __name__, model, server, str(file), str(server_pid)]
        # the guard inherits this, until it can hear that it is retired: it would end by it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            # an interrupt from the terminal is for the server, which tells its processes
            return cls(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
            )
        except OSError as error:
            print(f"warning: nobody guards {model}: {error}", file=sys.stderr)
            return cls(None)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def dismiss(self) -> None:
        """Tell the guard that this process ends as it should."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(_GOODBYE)
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()


class _RetiredError(Exception):
    """Another guard says that new processes have taken over."""


def watch(pipe: BinaryIO, model: str, server: str, file: Path, server_pid: int) -> str | None:
    """Wait for the end of the process at the other end of a pipe, and have its model loaded anew where it was killed.

    Returns:
        what is to be told, in one line; None after a usual end.
    """
    watched = os.getppid()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if pipe.read() == _GOODBYE or not _lives(server_pid):
            return None
        # who retires the others now is not to be retired by them
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except _RetiredError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_when_idle(watched)
        return None
    others = _guards(model, file, server_pid)
    told, loading = _load(model, server, file, server_pid)
    if loading and _wait_for_new(others, model, file, server_pid):
        time.sleep(0 if server and "was loaded" in told else _WARMUP)
        for other in others:
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGTERM)
    return f"A process of {model} was killed{told}."


def _load(model: str, server: str, file: Path, server_pid: int) -> tuple[str, bool]:
    """What came of it, and whether new processes are to be expected."""
    touched = _touch(file)
    then = "a server that polls its repository loads it anew, any other has to be started again"
    if not touched:
        then = f"start the server again, as {file} cannot be touched"
    if not server:
        return f"; {then}", touched
    problem: object = ""
    for _ in range(_ATTEMPTS):
        try:
            if not touched:
                _post(server, model, "unload")
            _post(server, model, "load")
            return ", and the model was loaded anew", True
        except urllib.error.HTTPError as error:
            # so does a server answer whose repository is polled, or never looked at again
            reason = error.read(500).decode(errors="replace")
            return f"; {then} (it refused to: {reason})", touched
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "reason", error)
        time.sleep(_PAUSE)
        if not _lives(server_pid):
            break
    return f", and {server} cannot be asked to load it anew ({problem}; see --server); {then}", touched


def _wait_for_new(others: list[int], model: str, file: Path, server_pid: int) -> bool:
    """Whether as many new processes as before have opened their engines: each starts a guard then."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and _lives(server_pid):
        if len(set(_guards(model, file, server_pid)) - set(others)) > len(others):
            return True
        time.sleep(_PAUSE)
    return False


def _guards(model: str, file: Path, server_pid: int) -> list[int]:
    """Processes that do what this one does for the other instances of its model."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError, IndexError):
            words = path.read_bytes().split(b"\0")
            # the address may be another one now
            wanted = (model.encode(), os.fsencode(file), str(server_pid).encode())
            if __package__.encode() in b" ".join(words) and (words[-5], *words[-3:-1]) == wanted:
                found.append(int(path.parent.name))
    return [process for process in found if process != os.getpid()]


def _end_when_idle(process: int) -> None:
    while True:
        before = _cpu(process)
        time.sleep(_WINDOW)
        now = _cpu(process)
        if before is None or now is None:
            return
        if now - before < _IDLE * _WINDOW:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            return


def _cpu(process: int) -> float | None:
    """Seconds of processors that it took; None when it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _post(server: str, model: str, what: str) -> None:
    address = f"{server.rstrip('/')}/v2/repository/models/{quote(model)}/{what}"
    request = urllib.request.Request(address, data=b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        response.read()


def _touch(file: Path) -> bool:
    try:
        os.utime(file)
    except OSError:
        return False
    return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _retire(number: int, frame: object) -> NoReturn:
    raise _RetiredError


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _retire)
    line = watch(sys.stdin.buffer, sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    if line is not None:
        print(line, file=sys.stderr, flush=True)

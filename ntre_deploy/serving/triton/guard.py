"""A small process beside each of Triton's: when that is killed, it has the model loaded anew.

Triton (2.46 on) leaves a process of its Python backend that has died as it is: the server stays ready, and every request
that comes to that instance fails.  What a server offers is to load a model again, which it does only for files that have
changed.
"""

import http.client
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_GOODBYE = b"end\n"
# of one attempt: a model has to load
_SECONDS = 600.0
_ATTEMPTS = 10
_PAUSE = 1.0


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
        try:
            # an interrupt from the terminal is for the server, which tells its processes
            return cls(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
        except OSError as error:
            print(f"warning: nobody guards {model}: {error}", file=sys.stderr)
            return cls(None)

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


def watch(pipe: BinaryIO, model: str, server: str, file: Path, server_pid: int) -> str | None:
    """Wait for the end of the process at the other end of a pipe, and have its model loaded anew where it was killed.

    Returns:
        what is to be told, in one line; None after a usual end.
    """
    if pipe.read() == _GOODBYE or not _lives(server_pid):
        return None
    touched = _touch(file)
    if not server:
        return f"A process of {model} was killed; {_what_then(touched)}."
    for _ in range(_ATTEMPTS):
        try:
            if not touched:
                _post(server, model, "unload")
            _post(server, model, "load")
            return f"A process of {model} was killed, and the model was loaded anew."
        except urllib.error.HTTPError as error:
            reason = error.read(500).decode(errors="replace")
            return f"A process of {model} was killed; {_what_then(touched)} (loading it was refused: {reason})."
        except (OSError, http.client.HTTPException) as error:
            problem: object = getattr(error, "reason", error)
        time.sleep(_PAUSE)
        if not _lives(server_pid):
            return None
    return f"A process of {model} was killed, and {server} cannot be asked to load it anew: {problem}; see --server."


def _what_then(touched: bool) -> str:
    if touched:
        return "a server that polls its repository loads it anew, any other has to be started again"
    return "start the server again"


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


if __name__ == "__main__":
    told = watch(sys.stdin.buffer, sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    if told is not None:
        print(told, file=sys.stderr, flush=True)

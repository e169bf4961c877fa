"""The guard of a process, beside a server that only notes what it is asked."""

import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WATCHED = """
import os, sys
from pathlib import Path
from ntre_deploy.serving.triton.guard import Guard
guard = Guard.start("tiny model", sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
print(guard._process.pid, flush=True)
sys.stdin.readline()
guard.dismiss()
"""


class Asked(http.server.BaseHTTPRequestHandler):
    """Notes the requests, and refuses with what the server holds as `refusal`."""

    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        refusal = self.server.refusal  # type: ignore[attr-defined]
        self.send_response(400 if refusal else 200)
        self.end_headers()
        self.wfile.write(refusal)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.asked, server.refusal = [], b""  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text("")
    os.utime(path, (1, 1))
    return path


@pytest.fixture
def begin(server: Any, file: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a process that is guarded; what the guard says goes to the file `said`."""
    begun: list[subprocess.Popen[bytes]] = []
    guards: list[int] = []

    def start(pid: int | None = None, url: str | None = None) -> tuple[Any, int]:
        url = f"http://127.0.0.1:{server.server_port}" if url is None else url
        command = [sys.executable, "-P", "-c", WATCHED, url, str(file), str(pid or os.getpid())]
        with (tmp_path / "said").open("ab") as said:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        begun.append(process)
        assert process.stdout is not None
        guards.append(int(process.stdout.readline()))
        return process, guards[-1]

    yield start
    for guard in guards:
        if _lives(guard):
            os.kill(guard, signal.SIGKILL)
    for process in begun:
        process.kill()
        process.communicate(timeout=60)


def _lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_an_end_as_it_should_be_asks_for_nothing(begin: Any, server: Any, file: Path, waiting: Any) -> None:
    process, guard = begin()
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    waiting(lambda: not _lives(guard), "the guard's end")
    assert server.asked == []
    assert file.stat().st_mtime == 1


def test_a_kill_has_the_model_loaded_anew(begin: Any, server: Any, file: Path, waiting: Any, tmp_path: Path) -> None:
    process, _ = begin()
    process.kill()
    waiting(lambda: server.asked, "a request")
    assert server.asked == ["/v2/repository/models/tiny%20model/load"]
    assert file.stat().st_mtime > 1


def test_others_of_the_model_end_when_new_ones_have_begun(begin: Any, server: Any, waiting: Any) -> None:
    (first, _), (second, _) = begin(), begin()
    first.kill()
    waiting(lambda: server.asked, "a request")
    assert second.poll() is None
    new = [begin()[0] for _ in range(2)]
    assert waiting(second.poll, "the end of the other one") == -signal.SIGKILL
    assert all(process.poll() is None for process in new)
    # the end of the other one is nobody's loss
    assert len(server.asked) == 1


def test_one_that_is_retired_as_soon_as_it_begins_hears_it(begin: Any, waiting: Any) -> None:
    process, guard = begin()
    os.kill(guard, signal.SIGTERM)
    assert waiting(process.poll, "the end of its process") == -signal.SIGKILL


@pytest.mark.parametrize("url", [None, ""])
def test_where_loading_is_refused_the_file_is_touched(
    url: str | None, begin: Any, server: Any, file: Path, waiting: Any
) -> None:
    server.refusal = b"explicit model load / unload is not allowed if polling is enabled"
    process, _ = begin(url=url)
    process.kill()
    waiting(lambda: file.stat().st_mtime > 1, "the change of the file")


def test_a_folder_that_cannot_be_written_to_is_unloaded_first(
    begin: Any, server: Any, file: Path, waiting: Any
) -> None:
    process, _ = begin()
    file.unlink()
    process.kill()
    waiting(lambda: len(server.asked) == 2, "two requests")
    assert [path.rpartition("/")[2] for path in server.asked] == ["unload", "load"]


def test_nothing_is_done_for_a_server_that_has_ended(begin: Any, server: Any, file: Path, waiting: Any) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    process, guard = begin(pid=ended.pid)
    process.kill()
    waiting(lambda: not _lives(guard), "the guard's end")
    assert server.asked == []
    assert file.stat().st_mtime == 1

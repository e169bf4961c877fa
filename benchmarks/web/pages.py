"""Pages of `runtimes/web` in a headless Chromium, served on loopback: for this benchmark and for the tests."""

import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUNTIME = Path(__file__).parents[2] / "runtimes" / "web"
ORT = RUNTIME / "node_modules" / "onnxruntime-web" / "dist"

# what makes a page cross-origin isolated, and so gives threads to WebAssembly
_ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
_EMPTY = b"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'><title>empty</title>"


def packages_missing() -> str | None:
    """Why nothing of `runtimes/web` can be run here, or None."""
    if shutil.which("node") is None:
        return "Node is not installed"
    if not (ORT / "ort.wasm.min.mjs").is_file():
        return "the packages of runtimes/web are not installed (make web)"
    return None


def chromium_missing() -> str | None:
    """Why no page of it can be opened here, or None."""
    if chromium() is None:
        return "Chromium is not installed (apt-get install chromium)"
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed (pip install playwright)"
    return packages_missing()


def chromium() -> str | None:
    """The browser's program: `$CHROMIUM`, or where Debian puts it."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Site:
    """Folders on loopback.

    Attributes:
        address: such as `http://127.0.0.1:8123`.
        mounts: folders by the first part of their path; `src` and `ort` are there always.
        headers: of every answer.
        received: what pages have put, by path.
        asked: paths that were asked for.
    """

    address: str = ""
    mounts: dict[str, Path] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    received: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve(mounts: Mapping[str, Path], *, root: Path | None = None, isolated: bool = False) -> Iterator[Site]:
    """Serve folders as a static web host does, other paths from `root`.

    `/` is an empty page, and PUT keeps what it gets in `received`.
    """
    own = {"src": RUNTIME / "src", "examples": RUNTIME / "examples", "ort": ORT}
    site = Site(mounts={**own, **mounts}, headers=dict(_ISOLATED if isolated else {}))

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def translate_path(self, path: str) -> str:
            first, _, rest = path.split("?")[0].lstrip("/").partition("/")
            folder = site.mounts.get(first)
            self.directory = str(folder or root or RUNTIME / "nothing")
            return super().translate_path(path if folder is None else "/" + rest)

        def do_GET(self) -> None:
            site.asked.append(self.path)
            if self.path == "/":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(_EMPTY)))
                self.end_headers()
                self.wfile.write(_EMPTY)
            else:
                super().do_GET()

        def do_PUT(self) -> None:
            site.received[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def end_headers(self) -> None:
            for name, value in site.headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def launch(playwright: Any, *arguments: str) -> Any:
    """Chromium without a window, as Playwright's `Browser`; of Playwright itself, a process has one at a time."""
    return playwright.chromium.launch(executable_path=chromium(), args=["--disable-dev-shm-usage", *arguments])

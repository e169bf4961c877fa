"""A camera on loopback: an HTTP server whose streams begin, die in the middle and come back as a test says."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

BOUNDARY = "frame"


def picture(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A flat picture whose red tells which one it is."""
    return np.full((*size, 3), (level % 256, 40, 200), np.uint8)


def _jpeg(level: int, size: tuple[int, int]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(level, size)).save(data, "JPEG", quality=95)
    return data.getvalue()


@contextmanager
def camera(lengths: list[int], pause: float = 0.02, clip: Path | None = None) -> Iterator[SimpleNamespace]:
    """Serve `/mjpeg` (each connection ends after the next of `lengths` frames; after those it is refused), and `/ts`.

    Args:
        lengths: frames of each connection; -1 goes on for ever, 0 answers 503.
        pause: seconds between frames.
        clip: an MPEG-TS file, which `/ts` sends slowly and without its length, and `/clip.mp4` at once with it.

    Yields:
        `address`, and `connections`: how many have come.
    """
    state = SimpleNamespace(address="", connections=0)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                number = state.connections
                state.connections += 1
            if self.path == "/clip":
                assert clip is not None
                content = clip.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            length = lengths[number] if number < len(lengths) else 0
            if length == 0:
                self.send_error(503)
                return
            self.send_response(200)
            try:
                (self._ts if self.path == "/ts" else self._mjpeg)(length)
            except (BrokenPipeError, ConnectionResetError):
                return

        def _mjpeg(self, length: int) -> None:
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.end_headers()
            index = 0
            while index != length:
                data = _jpeg(index, (48, 64))
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                index += 1
                time.sleep(pause)

        def _ts(self, length: int) -> None:
            assert clip is not None
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            content = clip.read_bytes()
            # `length` is in packets of 188 bytes
            for start in range(0, len(content) if length < 0 else 188 * length, 188 * 8):
                self.wfile.write(content[start : start + 188 * 8])
                time.sleep(pause / 20)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()

"""What the page links to plays in a browser: a real one opens it and tells what it shows."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.videowriter import write_video
from ntre_deploy.segment.page import Card, thumbnail, write_page

# opens the page in a frame, follows each link to a video, plays what it finds, and tells what a viewer would see
HARNESS = """<!doctype html><body><iframe id="page" src="overview.html"></iframe><script>
const tell = (what) => fetch("/told", {method: "POST", body: JSON.stringify(what)});
const until = async (test) => { for (let i = 0; i < 300 && !test(); i++) await new Promise(r => setTimeout(r, 50)); };
window.onload = async () => {
  const inner = document.getElementById("page").contentDocument, found = [];
  const sources = [...inner.querySelectorAll("a[href$='.mp4']")].map(a => a.href);
  for (const video of [...inner.querySelectorAll("video"), ...sources.map(() => document.createElement("video"))]) {
    if (!video.src) { video.src = sources.pop(); video.muted = true; document.body.append(video); }
    let refused = "";
    video.onerror = () => { refused = video.error.message; };
    try { await video.play(); } catch (error) { refused = refused || String(error); }
    await until(() => refused || video.currentTime > 0.3);
    found.push({src: video.src, width: video.videoWidth, height: video.videoHeight, time: video.currentTime,
                duration: video.duration, error: refused});
  }
  tell({found, able: document.createElement("video").canPlayType('video/mp4; codecs="avc1.42E01E"')});
};
</script></body>"""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FIREFOX = ("firefox", "firefox-esr")


def chromium(program: str, profile: Path, address: str) -> list[str]:
    flags = ["--headless=new", "--no-first-run", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    # a container's root has no sandbox, and often little shared memory
    flags += ["--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    return [program, *flags, address]


def firefox(program: str, profile: Path, address: str) -> list[str]:
    profile.mkdir()
    (profile / "user.js").write_text('user_pref("media.autoplay.default", 0);\n')
    return [program, "--headless", "--no-remote", "--profile", str(profile), address]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str, "queue.Queue[Any]"]]:
    """A folder that is served on loopback, its address, and what a page in it has told."""
    told: queue.Queue[Any] = queue.Queue()
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}", told
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("programs", "command"), [(CHROMIUM, chromium), (FIREFOX, firefox)], ids=["chromium", "firefox"]
)
def test_the_video_of_the_page_plays(
    programs: tuple[str, ...],
    command: Callable[[str, Path, str], list[str]],
    site: tuple[Path, str, "queue.Queue[Any]"],
    tmp_path: Path,
) -> None:
    program = next((found for name in programs if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(programs)} is installed")
    folder, address, told = site
    frame = np.random.default_rng(0).integers(0, 256, (241, 321, 3), dtype=np.uint8)
    with write_video(folder / "a clip.overlay.mp4", (241, 321), 10) as write:
        for k in range(30):
            write(np.roll(frame, 4 * k, axis=1))
    cards = [Card("a clip.mp4", [thumbnail(frame)], ["a clip.overlay.mp4"], {"x": 0.5}, 30, "a clip.overlay.mp4")]
    write_page(folder / "overview.html", cards, ["x"], "onnx-cpu fp32")
    (folder / "harness.html").write_text(HARNESS)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"HOME": str(tmp_path)}
    process = subprocess.Popen(
        command(program, tmp_path / "profile", f"{address}/harness.html"),
        env=environment,
        start_new_session=sys.platform != "win32",
        **silent,  # type: ignore[call-overload]
    )
    try:
        found = told.get(timeout=90)
    except queue.Empty:
        pytest.fail(f"{program} told nothing; its exit code is {process.poll()}")
    finally:
        _end(process)
    if not found["able"]:
        pytest.skip(f"{program} plays no H.264 here; Firefox needs libavcodec: apt-get install libavcodec-extra")
    videos = found["found"]
    assert len(videos) == 3, "the player on the page, and the two links"
    for video in videos:
        assert video["error"] == "", video
        assert (video["width"], video["height"]) == (320, 240)
        assert video["time"] > 0.3
        assert abs(video["duration"] - 3) < 0.2


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a browser and the processes that it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)

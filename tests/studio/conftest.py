"""A studio as a user has it: rendered scenes in a folder, `ntre studio` on them in its own process, and a browser."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import CLASSES, KINDS, render_scene

pytest.importorskip("starlette", reason="the extra `studio` is not installed")
pytest.importorskip("uvicorn", reason="the extra `studio` is not installed")

SCRIPT = Path(sys.executable).parent / "ntre"
PATIENCE = 60
# milliseconds, of the page
TIMEOUT = 30_000
# what the page is made of, from inside of it; it may lie below a path
_PARTS = "const { editor, store } = await import(new URL('js/main.js', document.baseURI));"


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
        return str(self.json["error"])

    @property
    def labels(self) -> np.ndarray:
        shape = int(self.headers["x-height"]), int(self.headers["x-width"])
        return np.frombuffer(self.body, np.uint8).reshape(shape)


@dataclass
class Server:
    """A running `ntre studio`."""

    command: list[str]
    folder: Path
    process: "subprocess.Popen[str]" = field(init=False)
    address: str = ""
    said: list[str] = field(default_factory=list)

    def start(self) -> "Server":
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=env)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
                return self
        raise AssertionError("".join(self.said))

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.address)[1])  # type: ignore[index]

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> Answer:
        """A request with the token; `json=` for a body, `raw=` for headers alone as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {"X-Studio-Token": self.token} | (headers or {})
        if "json" in more:
            body = json.dumps(more["json"]).encode()
        try:
            connection.request(method, path, body, {k: v for k, v in sent.items() if v is not None})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def state(self) -> Any:
        return self.ask("GET", "/api/state").json

    def ready(self) -> "Server":
        assert self.ask("POST", "/api/engine").json["engine"]["state"] == "ready"
        return self

    def marked(self, photo: str, mask: np.ndarray, number: int = 1) -> int:
        """Mark an object, with a class for it where there is none; returns the revision."""
        classes = self.state()["classes"]
        if number not in [c["number"] for c in classes]:
            classes.append({"number": number, "name": f"thing {number}", "colour": "#d02090"})
            assert self.ask("PUT", "/api/classes", json=classes).status == 200
        labels = (mask != 0).astype(np.uint8) * number
        answer = self.ask("PUT", f"/api/photos/{photo}/marks", labels.tobytes())
        assert answer.status == 200, answer.body
        return int(answer.json["revision"])


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Four scenes with a key as `photos` (a folder), and the mask of the key in each."""
    folder = tmp_path_factory.mktemp("scenes") / "photos"
    folder.mkdir()
    masks = {}
    for number in range(4):
        scene = render_scene(CLASSES.index("key") + number * len(KINDS), seed=11)
        Image.fromarray(scene.image).save(folder / f"key{number}.png")
        masks[f"key{number}.png"] = mask = (scene.labels == scene.target + 1).astype(np.uint8)
        mask.setflags(write=False)
    return SimpleNamespace(photos=folder, masks=masks, names=sorted(masks))


@pytest.fixture
def studio(exported: Path, scenes: SimpleNamespace, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start `ntre studio`; several may run at once, and all end with the test."""
    started: list[Server] = []

    def start(
        *arguments: str | Path, bundle: Path = exported, photos: Path | None = scenes.photos, port: int = 0
    ) -> Server:
        given = [str(a) for a in ([photos] if photos is not None else []) + list(arguments)]
        more = ["--port", str(port)] if port else ["--port", str(_free_port())]
        command = [str(SCRIPT), "studio", str(bundle), *given, "--no-browser", "--threads", "1", *more]
        server = Server(command, tmp_path)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def quiet(exported: Path, scenes: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a file that leave it as it is."""
    folder = tmp_path_factory.mktemp("quiet")
    command = [str(SCRIPT), "studio", str(exported), str(scenes.photos), "--no-browser", "--port", str(_free_port())]
    server = Server([*command, "--threads", "1"], folder).start()
    yield server.ready()
    server.kill()


@pytest.fixture
def session_folder(tmp_path: Path) -> Path:
    """Where a studio that was started in the test keeps its session."""
    return tmp_path / "studio"


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# one at a time in a process, and other folders' tests start their own
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's browser, driven by Playwright, with a camera that shows a test picture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium")
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


TIMEOUT = 30_000


class Person:
    """Someone in front of the page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if _bad(message) else None)
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, address: str) -> "Person":
        self.page.goto(address)
        self.page.wait_for_selector("#engine.ready")
        return self

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the photo is on the screen."""
        canvas = self.page.locator("#canvas")
        left, top, scale = map(float, canvas.get_attribute("data-place").split())
        box = canvas.bounding_box()
        return box["x"] + left + x * scale, box["y"] + top + y * scale

    def drag(self, *points: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=4)
        mouse.up()

    def show(self, name: str) -> None:
        """Click a photo of the strip."""
        self.page.click(f'.thumb[aria-label^="{name}"]')
        self.until("editor.photo?.name === name && editor.ready === editor.photo.id", name)

    def what(self, name: str, *wanted: str) -> str:
        """Wait until the strip says of a photo what is wanted."""
        one = ", ".join(f'.thumb[aria-label^="{name}"][data-what="{w}"]' for w in wanted)
        return str(self.page.wait_for_selector(one).get_attribute("data-what"))

    def until(self, condition: str, name: str = "") -> None:
        """Wait until something holds for the page's `editor` and `store`."""
        for _ in range(TIMEOUT // 50):
            told = f"{_PARTS} return Boolean({condition});"
            if self.page.evaluate("async (name) => { " + told + " }", name):
                return
            time.sleep(0.05)
        raise AssertionError(condition)

    def labels(self, which: str) -> np.ndarray:
        """The label map on the stage: `marks`, `prediction` or `shown`."""
        found = self.page.evaluate(
            f"async (which) => {{ {_PARTS} const labels = editor[which];"
            " return labels && { width: editor.photo.width, height: editor.photo.height, all: [...labels] }; }",
            which,
        )
        return np.array(found["all"], np.uint8).reshape(found["height"], found["width"])

    def waits_for(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def settled(self) -> None:
        """All marks are with the server."""
        self.page.evaluate(f"async () => {{ {_PARTS} await store.settled(); }}")


def _bad(message: Any) -> bool:
    # answers of the server that the page has dealt with are logged by the browser all the same
    return message.type == "error" and not re.search("status of (4|5)|ERR_CONNECTION|ERR_EMPTY", message.text)


@pytest.fixture
def person(chromium: Any) -> Iterator[Callable[..., Person]]:
    opened: list[Person] = []

    def come(width: int = 1280, height: int = 800, **options: Any) -> Person:
        context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        context.grant_permissions(["camera", "clipboard-read", "clipboard-write"])
        opened.append(Person(context.new_page()))
        return opened[-1]

    yield come
    for one in opened:
        one.page.context.close()
    assert [error for one in opened for error in one.errors] == []

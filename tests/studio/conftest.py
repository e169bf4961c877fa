"""A studio as a user has it: rendered scenes in a folder, `ntre studio` on them in its own process, and a browser."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
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


@pytest.fixture(scope="session")
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

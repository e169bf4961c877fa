"""`ntre studio --static`: the page on a plain web host, used as a person uses it; there is no server but that host's."""

import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.imagefile import read_image, read_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from tests.studio.conftest import SCRIPT, Person  # type: ignore[import-not-found]

ORT = Path(__file__).parents[2] / "runtimes" / "web" / "node_modules" / "onnxruntime-web"
SUB = "docs/try"


@pytest.fixture(scope="session")
def ort() -> Path:
    """onnxruntime-web as npm installs it."""
    if not (ORT / "dist" / "ort.wasm.min.mjs").is_file():
        pytest.skip("the packages of runtimes/web are not installed (make web)")
    return ORT


def _studio(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(SCRIPT), "studio", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture(scope="session")
def written(exported: Path, ort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site below a folder of a host, of the small bundle; tests must not change it."""
    host = tmp_path_factory.mktemp("host")
    done = _studio(exported, "--static", host / SUB, "--ort", ort, cwd=host)
    assert (done.returncode, done.stdout) == (0, "")
    assert re.search(r"wrote .*try \(page 0\.\d MB, bundle [\d.]+ MB, onnxruntime-web 14\.\d MB\)", done.stderr)
    return host


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host(written: Path) -> Iterator[str]:
    """The address of the site, served by Python's own `http.server`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(written)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{SUB}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def visitor(person: Callable[..., Person], host: str, scenes: SimpleNamespace) -> Callable[..., Person]:
    """Someone who has opened the site and put the scenes on the strip."""

    def come(**options: Any) -> Person:
        who = person(**options).open(host)
        who.page.set_input_files("#files", [str(scenes.photos / name) for name in scenes.names])
        who.until("store.photos.size === 4")
        who.show(scenes.names[0])
        return who

    return come


def _paint(who: Person, mask: np.ndarray) -> np.ndarray:
    """Paint over an object with the brush, row by row; returns the marks."""
    ys, xs = np.nonzero(mask)
    for y in range(int(ys.min()), int(ys.max()) + 1, 8):
        row = xs[ys == y]
        if row.size:
            who.drag((int(row.min()), y), (int(row.max()), y))
    who.until("editor.marks !== null")
    return who.labels("marks")


def test_a_painted_object_is_found_in_the_others_as_python_finds_it(visitor, scenes, exported: Path) -> None:
    who = visitor()
    assert who.page.locator(".tool").all_inner_texts() == ["Brush", "Polygon", "Move"]
    drawn = _paint(who, scenes.masks["key0.png"])
    segmenter = Segmenter.load(exported, "onnx-cpu", threads=1)
    memory = segmenter.encode_support([(read_image(scenes.photos / "key0.png"), drawn)])
    for name in scenes.names[1:]:
        who.what(name, "found", "nothing found")
        who.show(name)
        who.until("editor.prediction !== null")
        wanted = segmenter.segment(read_image(scenes.photos / name), memory)
        assert (who.labels("prediction") == wanted).mean() >= 0.9999, name
        assert wanted.any()

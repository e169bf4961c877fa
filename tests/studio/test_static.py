"""`ntre studio --static`: the page on a plain web host, used as a person uses it."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.labelme import LabelmeDataset
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.studio.exports import KINDS, export
from ntre_deploy.studio.photos import find_photos
from ntre_deploy.studio.session import Session
from tests.studio.conftest import SCRIPT, Person, Server  # type: ignore[import-not-found]

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
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder by Python's own `http.server`; gives its address."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
            stack.callback(server.server_close)
            Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}/"

        yield start


@pytest.fixture(scope="module")
def host(written: Path, serve: Callable[[Path], str]) -> str:
    """The address of the site, below a path."""
    return f"{serve(written)}{SUB}/"


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
    who.page.keyboard.press("r")
    ys, xs = np.nonzero(mask)
    for y in range(int(ys.min()), int(ys.max()) + 1, 8):
        row = xs[ys == y]
        if row.size:
            who.drag((int(row.min()), y), (int(row.max()), y))
    who.until("editor.marks !== null")
    return who.labels("marks")


def test_a_painted_object_is_found_in_the_others_as_python_finds_it(visitor, scenes, exported: Path) -> None:
    who = visitor()
    # the host sends no headers for that; a service worker does
    assert who.page.evaluate("() => crossOriginIsolated && navigator.serviceWorker.controller !== null")
    threads = min(4, os.cpu_count() or 1)
    assert ("1 thread" in who.page.locator("#engine").get_attribute("title")) == (threads == 1)
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


def _given(scenes: SimpleNamespace, name: str) -> np.ndarray:
    """A label map of two classes and ignored pixels; the second class has a hole, and pixels that touch at a corner."""
    labels = scenes.masks[name] * 5
    labels[-60:, -60:] = 2
    labels[-50:-40, -50:-40] = 0
    labels[-45:-43, -45:-43] = 2
    labels[-70:-60, -70:-60] = 2
    labels[:8] = 255
    return np.asarray(labels, np.uint8)


CLASSES = [
    {"number": 5, "name": "my key", "colour": "#d02090"},
    {"number": 2, "name": "corner", "colour": "#20d090"},
]


@pytest.fixture
def exports(visitor, scenes, exported: Path, tmp_path: Path) -> SimpleNamespace:
    """The same session in the page and in Python, with all that both export of it as `page` and `python`."""
    who = visitor()
    names = scenes.names[:3]
    marks = [[name, _given(scenes, name).tobytes().hex()] for name in names]
    who.page.evaluate(
        """async ([classes, marks]) => {
            const { store } = await import(new URL("js/main.js", document.baseURI));
            store.setClasses(classes);
            for (const [name, hex] of marks) {
                const photo = [...store.photos.values()].find((one) => one.name === name);
                store.setMarks(photo.id, Uint8Array.from(hex.match(/../g), (h) => parseInt(h, 16)));
            }
            await store.settled();
        }""",
        [CLASSES, marks],
    )
    found = SimpleNamespace(page=tmp_path / "page", python=tmp_path / "python", who=who)
    who.page.click("#export-open")
    who.page.check("#export-predicted")
    for kind in KINDS:
        with who.page.expect_download() as wait:
            who.page.click(f'[data-kind="{kind}"]')
        assert wait.value.suggested_filename == f"ntre_{kind}.zip"
        with zipfile.ZipFile(io.BytesIO(Path(wait.value.path()).read_bytes())) as archive:
            assert archive.testzip() is None
            archive.extractall(found.page)
    session = Session(tmp_path / "session", find_photos([scenes.photos])[0])
    session.set_classes(CLASSES)
    for photo in list(session.photos.values()):
        if photo.name in names:
            session.mark(photo.id, _given(scenes, photo.name))
    segmenter = Segmenter.load(exported, "onnx-cpu", threads=1)
    for kind in KINDS:
        out = found.python / f"ntre_{kind}"
        out.mkdir(parents=True)
        export(kind, out, session, Path("..") / exported.name, lambda: segmenter, predicted=True)
    shutil.rmtree(found.python / "pairs")
    return found


def test_exports_are_those_of_python(exports, scenes) -> None:
    page, python = exports.page, exports.python
    files = sorted(p.relative_to(page).as_posix() for p in page.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(python).as_posix() for p in python.rglob("*") if p.is_file())
    for name in files:
        ours, theirs = page / name, python / name
        if name.endswith(".safetensors"):
            a, b = SupportMemory.load(ours), SupportMemory.load(theirs)
            assert (a.name, a.model, a.shots) == (b.name, b.model, b.shots)
            assert a.shot_scores == pytest.approx(b.shot_scores, abs=1e-3)
            assert a.calibration == pytest.approx(b.calibration, abs=1e-3)
            np.testing.assert_allclose(a.prototype, b.prototype, atol=1e-4)
        elif name.endswith(".json"):
            _same_json(json.loads(ours.read_text()), json.loads(theirs.read_text()))
        elif "/masks/" in name or (name.startswith("ntre_masks/") and name.endswith(".png")):
            with Image.open(ours) as a, Image.open(theirs) as b:
                assert (a.mode, a.getpalette()) == (b.mode, b.getpalette())
                # one photo is as the network sees it
                assert (np.asarray(a) == np.asarray(b)).mean() >= (0.9999 if "key3" in name else 1), name
        else:
            assert ours.read_bytes() == theirs.read_bytes(), name
    datasets = [LabelmeDataset(folder / "ntre_labelme") for folder in (page, python)]
    for class_id in datasets[0].class_names:
        assert datasets[0].images(class_id) == datasets[1].images(class_id)
        for image in datasets[0].images(class_id):
            a, b = (dataset.mask(image, class_id) for dataset in datasets)
            assert (a == b).mean() >= (0.9999 if "key3" in str(image) else 1)


def test_the_cli_takes_the_exported_session(exports, scenes, exported: Path) -> None:
    shutil.copytree(exported, exports.page / exported.name)
    session = exports.page / "ntre_session"
    text = (session / "README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line.strip()) for line in text.splitlines() if line.startswith("    ntre ")]
    photo = scenes.photos / "key3.png"
    for number, command in enumerate(commands[:2]):
        given = [str(photo) if word == "PHOTOS" else word for word in command[1:]]
        done = subprocess.run([str(SCRIPT), *given], capture_output=True, text=True, cwd=session, timeout=120)
        assert done.returncode == 0, done.stderr
        (session / "_masks" / "key3.png").rename(session / f"_map{number}.png")
    maps = [np.asarray(Image.open(session / f"_map{number}.png")) for number in range(2)]
    shown = np.asarray(Image.open(exports.page / "ntre_masks" / "key3.png"))
    # the first with the page's memories, the second with its photos and masks
    assert all((found == shown).mean() >= 0.9999 for found in maps)
    assert shown.any()


def test_the_scores_and_the_python_are_shown(exports, scenes, exported: Path) -> None:
    page = exports.who.page
    page.locator("summary").click()
    exports.who.waits_for("segmenter = Segmenter.load")
    wanted = SupportMemory.load(exports.python / "ntre_memories" / "my key.safetensors").shot_scores
    mean = round(100 * sum(wanted) / len(wanted))
    page.locator("#export [data-close]").click()
    page.wait_for_selector(".class .gain")
    assert f"score {mean}" in page.locator('.class[data-number="5"] .score').inner_text()


def test_a_reload_keeps_the_session_and_nothing_leaves_the_page(visitor, scenes, host: str) -> None:
    who = visitor()
    drawn = _paint(who, scenes.masks["key0.png"])
    who.what("key3.png", "found", "nothing found")
    name = who.page.locator('.class[data-number="1"] input.class-name')
    name.fill("tin key")
    name.press("Enter")
    who.settled()
    who.page.reload()
    who.page.wait_for_selector("#engine.ready")
    who.until("store.photos.size === 4")
    who.show("key0.png")
    who.until("editor.marks !== null")
    np.testing.assert_array_equal(who.labels("marks"), drawn)
    assert name.input_value() == "tin key"
    who.what("key3.png", "found", "nothing found")
    assert [url for url in who.requests if not url.startswith((host, "blob:"))] == []
    # another site on the same host has a session of its own
    names = who.page.evaluate("async () => (await indexedDB.databases()).map((one) => one.name)")
    assert sorted(names) == ["ntre-studio", f"ntre-studio /{SUB}/"]
    told = who.page.evaluate(
        """async () => {
            const out = [];
            document.addEventListener("securitypolicyviolation", (event) => out.push(event.effectiveDirective));
            await fetch("https://example.org/").catch(() => {});
            const script = document.createElement("script");
            script.textContent = "window.broken = true";
            document.body.append(script);
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [out.length, window.broken === undefined];
        }"""
    )
    who.errors.clear()  # the browser tells of each of them
    assert told == [2, True]


def test_bad_files_are_named_and_a_photo_can_go(visitor, tmp_path: Path) -> None:
    who = visitor()
    (tmp_path / "notes.txt").write_text("hello")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "wide.jpg")
    whole = (tmp_path / "wide.jpg").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:30])
    files = ["notes.txt", "large.png", "cut.png", "wide.jpg"]
    who.page.set_input_files("#files", [str(tmp_path / name) for name in files])
    who.waits_for("notes.txt is no photo; .bmp, .jpeg")
    who.waits_for("cut.png is not an image that can be read")
    who.waits_for("large.png has 10000 x 10000 pixels (100 megapixels); the studio takes up to 60")
    # shown and marked at 2048 pixels
    who.show("wide.jpg")
    who.page.keyboard.press("r")
    who.drag((100, 100), (400, 300))
    who.what("wide.jpg", "shot")
    who.until("editor.marks.length === 2048 * 1024")
    who.page.get_by_role("button", name="Remove wide.jpg from the strip").click(force=True)
    who.until("store.photos.size === 4")
    who.page.reload()
    who.until("store.photos.size === 4")
    # two tabs would write over each other
    other = who.page.context.new_page()
    other.goto(who.page.url)
    other.get_by_text("This studio is open in another tab too").wait_for()
    other.close()
    assert who.page.get_by_text("This studio is open in another tab too").count() == 0
    # and so can everything
    who.page.on("dialog", lambda dialog: dialog.accept())
    who.page.click("#help-open")
    who.page.get_by_role("button", name="Forget everything").click()
    who.waits_for("Drop photos here")
    who.until("store.photos.size === 0")


def test_a_damaged_bundle_is_told_and_marks_are_kept(
    written: Path, person, scenes, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    broken = Path(shutil.copytree(written / SUB, tmp_path / "site"))
    graph = next((broken / "bundle").glob("query*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    who = person()
    who.page.goto(serve(broken))
    who.waits_for("The bundle cannot be used")
    who.waits_for(graph.name)
    who.page.set_input_files("#files", str(scenes.photos / "key0.png"))
    who.show("key0.png")
    who.drag((30, 30), (90, 40))
    who.what("key0.png", "shot")
    shutil.copy(written / SUB / "bundle" / graph.name, graph)
    who.page.get_by_role("button", name="Try again").click()
    who.page.wait_for_selector("#engine.ready")


def test_the_site_is_written_whole_and_over_an_earlier_one_alone(exported: Path, ort: Path, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        before = sorted(map(str, tmp_path.rglob("*")))
        done = _studio(exported, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1, done.stderr
        assert sorted(map(str, tmp_path.rglob("*"))) == before
        return done.stderr

    assert "give --ort node_modules/onnxruntime-web" in refused("--static", "site")
    assert "does not hold onnxruntime-web" in refused("--static", "site", "--ort", tmp_path)
    assert "--static takes no photos" in refused(exported, "--static", "site", "--ort", ort)
    assert "has no ONNX graphs in int8" in refused("--static", "site", "--ort", ort, "--precision", "int8")
    assert "--engine" in refused("--static", "site", "--ort", ort, "--engine", "onnx-cpu")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all my work")
    assert "mine holds something else than an earlier static studio" in refused("--static", "mine", "--ort", ort)
    old = tmp_path / "old" / "dist"
    shutil.copytree(ort / "dist", old, copy_function=os.link)
    (tmp_path / "old" / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.20.1"}')
    assert "holds onnxruntime-web 1.20; 1.30 or newer" in refused("--static", "site", "--ort", "old")
    for _ in range(2):
        done = _studio(exported, "--static", "site", "--ort", ort / "dist", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "site" / "CNAME").write_text("example.org")
    assert "site holds CNAME" in refused("--static", "site", "--ort", ort)


def test_a_site_is_written_without_the_extra_and_webgpu_is_packed_when_asked(
    exported: Path, ort: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['starlette'] = sys.modules['uvicorn'] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [str(SCRIPT), "studio", str(exported), "--static", "site", "--ort", str(ort), "--webgpu"]
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "site" / "ort" / "ort-wasm-simd-threaded.asyncify.wasm").is_file()
    assert json.loads((tmp_path / "site" / "studio.json").read_text())["engine"] == "auto"


def test_a_broken_bundle_is_refused_before_anything_is_written(exported: Path, ort: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(exported, tmp_path / "broken.ntre"))
    graph = broken / "query.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    done = _studio(broken, "--static", "site", "--ort", ort, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "query.onnx" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.ntre"]


def test_the_page_is_light_and_says_its_policy(written: Path) -> None:
    site = written / SUB
    apart = ("bundle", "ort", "web")
    files = [p for p in site.rglob("*") if p.is_file() and p.relative_to(site).parts[0] not in apart]
    assert sum(file.stat().st_size for file in files) < 300_000
    page = (site / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#x27;self&#x27;" in policy[1]
    assert "http:" not in page
    assert "https:" not in page
    # before anything that it is to hold for
    assert page.index("Content-Security-Policy") < page.index("<link")
    assert "Cross-Origin-Embedder-Policy: require-corp" in (site / "_headers").read_text()
    assert sorted(p.name for p in (site / "ort").iterdir()) == [
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
        "ort.wasm.min.mjs",
    ]


def _same_json(ours: Any, theirs: Any) -> None:
    """Equal content of COCO or LabelMe; what the network found in the fourth photo may differ by single pixels."""
    if "shapes" in ours:
        assert {k: v for k, v in ours.items() if k != "shapes"} == {k: v for k, v in theirs.items() if k != "shapes"}
        if ours["imagePath"] != "key3.png":
            assert sorted(map(_shape, ours["shapes"])) == sorted(map(_shape, theirs["shapes"]))
        return
    assert (ours["images"], ours["categories"]) == (theirs["images"], theirs["categories"])
    for a, b in zip(ours["annotations"], theirs["annotations"], strict=True):
        if a["image_id"] == 4:
            assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-3)
            assert a.pop("area") == pytest.approx(b.pop("area"), rel=1e-3)
            for one in (a, b):
                del one["segmentation"], one["bbox"]
        assert a == b


def _shape(shape: dict[str, Any]) -> tuple[str, list[tuple[float, float]]]:
    """A polygon from its first corner on, wherever that stands in the file; its other fields are few."""
    points = [tuple(point) for point in shape["points"]]
    at = points.index(min(points))
    return shape["label"], points[at:] + points[:at]


def _shown(server: Server, photo: str, folder: Path) -> np.ndarray:
    file = folder / f"{photo}.jpg"
    file.write_bytes(server.ask("GET", f"/api/photos/{photo}/image").body)
    return read_image(file)


def test_the_served_page_runs_the_web_runtime_by_a_switch(
    studio, person, scenes, exported: Path, ort: Path, tmp_path: Path
) -> None:
    server = studio("--ort", ort)
    who = person().open(server.address)
    assert who.page.locator("#engine").get_attribute("title").startswith("onnx-cpu")
    who.show("key0.png")
    drawn = _paint(who, scenes.masks["key0.png"])
    who.settled()
    who.page.click("#help-open")
    who.page.select_option("#engine-choice", "web")
    who.page.wait_for_url("**/?engine=web")
    who.page.wait_for_selector("#engine.ready")
    assert who.page.locator("#engine").get_attribute("title").startswith("wasm fp32")
    who.requests.clear()
    # box and clicks are still the server's
    assert who.page.locator(".tool").count() == 5
    who.show("key1.png")
    who.until("editor.prediction !== null")
    # of the photos as the server gives them: JPEG, which browsers decode with libraries of their own
    first, second = (_shown(server, photo["id"], tmp_path) for photo in server.state()["photos"][:2])
    segmenter = Segmenter.load(exported, "onnx-cpu", threads=1)
    wanted = segmenter.segment(second, segmenter.encode_support([(first, drawn)]))
    assert (who.labels("prediction") == wanted).mean() >= 0.999
    assert wanted.any()
    assert not any("/labels" in url for url in who.requests)


def test_the_bundle_is_given_to_the_page_alone(studio, exported: Path, ort: Path) -> None:
    server = studio("--ort", ort)
    web = server.state()["web"]
    bare = {"X-Studio-Token": None}
    assert (
        server.ask("GET", f"/{web['bundle']}manifest.json", headers=bare).body
        == (exported / "manifest.json").read_bytes()
    )
    assert (
        server.ask("GET", "/ort/ort.wasm.min.mjs", headers=bare).headers["content-type"].startswith("text/javascript")
    )
    for path in (
        "/bundle/wrong/manifest.json",
        f"/{web['bundle']}query.fp16.onnx",
        f"/{web['bundle']}..%2Fsecret",
        "/ort/ort.all.js",
        "/ort/..%2Fpackage.json",
    ):
        assert server.ask("GET", path, headers=bare).status == 404, path
    assert studio().state()["web"] is None

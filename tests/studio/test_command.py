"""`ntre studio` on the command line."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.studio.conftest import SCRIPT  # type: ignore[import-not-found]


def _refused(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    command = [str(SCRIPT), "studio", *map(str, arguments), "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, env=env)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_cleanly(number: int, studio) -> None:
    server = studio().ready()
    server.process.send_signal(number)
    _, said = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert "Traceback" not in said
    assert "error" not in said


def test_the_address_holds_the_token_behind_the_hash(studio) -> None:
    server = studio()
    assert server.address == f"http://127.0.0.1:{server.port}/#token={server.token}"
    assert len(server.token) >= 32


def test_the_browser_is_opened(exported: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    command = [str(SCRIPT), "studio", str(exported), "--threads", "1"]
    env = os.environ | {"BROWSER": f"{browser} %s"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env)
    assert process.stderr is not None
    address = process.stderr.readline().rpartition(" ")[2]
    for _ in range(1200):
        if seen.exists() and seen.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    assert seen.read_text() == address


def test_no_bundle_is_one_line(tmp_path: Path) -> None:
    code, said = _refused("none.ntre", cwd=tmp_path)
    assert code == 2
    assert "none.ntre" in said
    assert os.listdir(tmp_path) == []


def test_a_folder_or_photo_that_is_not_there_is_one_line(exported: Path, tmp_path: Path) -> None:
    code, said = _refused(exported, "photos", cwd=tmp_path)
    assert code == 2
    assert "photos does not exist" in said
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_photo_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    code, said = _refused(exported, "notes.jpg", cwd=tmp_path)
    assert code == 2
    assert "notes.jpg is not an image that can be read" in said


def test_a_port_that_is_taken_is_one_line(exported: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, said = _refused(exported, "--port", str(other.getsockname()[1]), cwd=tmp_path)
    assert code == 2
    assert "cannot be had" in said
    assert "--port" in said


def test_without_the_extra_the_command_says_what_to_install(exported: Path, tmp_path: Path) -> None:
    for name in ("starlette", "uvicorn"):
        blocked = tmp_path / name
        blocked.mkdir()
        (blocked / "sitecustomize.py").write_text(f"import sys\nsys.modules[{name!r}] = None\n")
        path = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
        code, said = _refused(exported, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
        assert code == 3
        assert said == f"error: ntre studio needs {name}: pip install 'ntre_deploy[studio]'\n"


def test_a_bundle_that_does_not_load_is_told_and_marks_are_kept(studio, exported: Path, scenes, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(exported, tmp_path / "broken.ntre"))
    graph = next(broken.glob("query*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    server = studio(bundle=broken)
    engine = server.ask("POST", "/api/engine").json["engine"]
    assert engine["state"] == "failed"
    assert graph.name in engine["error"]
    photo = server.state()["photos"][0]
    server.marked(photo["id"], scenes.masks[photo["name"]])
    answer = server.ask("GET", f"/api/photos/{server.state()['photos'][1]['id']}/labels")
    assert answer.status in (400, 503)
    assert graph.name in answer.error
    masks = server.ask("POST", "/api/export", json={"kind": "masks"})
    assert masks.status == 200
    # mended while it runs
    shutil.copy(exported / graph.name, graph)
    assert server.ask("POST", "/api/engine").json["engine"]["state"] == "ready"


def test_files_that_are_no_photos_are_skipped_by_name(studio, scenes, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(scenes.photos, tmp_path / "mixed"))
    (folder / "notes.txt").write_text("x")
    (folder / "broken.jpg").write_text("x")
    server = studio(photos=folder)
    assert [p["name"] for p in server.state()["photos"]] == scenes.names
    skipped = {s["name"]: s["reason"] for s in server.state()["skipped"]}
    assert set(skipped) == {"notes.txt", "broken.jpg"}
    assert any("skipped" in line and "broken.jpg" in line for line in server.said)


def test_the_page_is_light(tmp_path: Path) -> None:
    import ntre_deploy.studio

    page = Path(ntre_deploy.studio.__file__).parent / "page"
    assert sum(file.stat().st_size for file in page.rglob("*") if file.is_file()) < 300_000
    assert all(file.read_bytes().count(b"\n") <= 500 for file in page.rglob("*.js"))

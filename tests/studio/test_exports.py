"""What leaves the studio is taken by the other commands as it is."""

import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.labelme import LabelmeDataset
from ntre_deploy.data.registry import guess_kind, open_dataset
from ntre_deploy.runtime.imagefile import read_image, read_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.tuning.split import split_photos
from tests.studio.conftest import SCRIPT, Server  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def made(exported: Path, scenes, tmp_path_factory: pytest.TempPathFactory):
    """A studio with a class of three shots, and one of three with ignored pixels; and a folder of all exports."""
    from tests.studio.conftest import _free_port

    folder = tmp_path_factory.mktemp("exports")
    command = [str(SCRIPT), "studio", str(exported), str(scenes.photos), "--no-browser", "--port", str(_free_port())]
    server = Server([*command, "--threads", "1"], folder).start().ready()
    photos = server.state()["photos"]
    classes = [
        {"number": 5, "name": "my key", "colour": "#d02090"},
        {"number": 2, "name": "corner", "colour": "#20d090"},
    ]
    assert server.ask("PUT", "/api/classes", json=classes).status == 200
    for photo in photos[:3]:
        labels = scenes.masks[photo["name"]] * 5
        labels[-60:, -60:] = 2
        labels[:8] = 255
        assert server.ask("PUT", f"/api/photos/{photo['id']}/marks", labels.tobytes()).status == 200
    for kind in ("session", "memories", "masks", "coco", "labelme"):
        answer = server.ask("POST", "/api/export", json={"kind": kind, "predicted": kind != "coco"})
        assert answer.status == 200, answer.body
        with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
            assert archive.testzip() is None
            archive.extractall(folder)
    yield server, folder
    server.kill()


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_session_is_a_folder_of_classes(made, scenes) -> None:
    session = made[1] / "ntre_session"
    assert guess_kind(session) == "folder"
    dataset = open_dataset(f"folder:{session}")
    assert list(dataset.class_names.values()) == ["corner", "my key"]
    for class_id, name in dataset.class_names.items():
        assert [i.rpartition("/")[2] for i in dataset.images(class_id)] == ["key0", "key1", "key2"]
        for image_id in dataset.images(class_id):
            file = image_id.rpartition("/")[2] + ".png"
            np.testing.assert_array_equal(dataset.image(image_id), read_image(scenes.photos / file))
            wanted = scenes.masks[file].copy() if name == "my key" else np.zeros_like(scenes.masks[file])
            wanted[-60:, -60:] = name == "corner"
            wanted[:8] = 255
            np.testing.assert_array_equal(dataset.mask(image_id, class_id), wanted)


def test_a_tune_takes_the_session(made) -> None:
    split = split_photos(open_dataset(f"folder:{made[1] / 'ntre_session'}"))
    assert all(len(found) >= 2 for found in split.learn.values())
    assert all(split.held_out.values())


def test_an_evaluation_takes_the_session(made, exported: Path) -> None:
    folder = made[1]
    out = _run(
        SCRIPT, "eval", exported, "--dataset", "folder:ntre_session", "--count", "4", "--out", "results", cwd=folder
    )
    assert "mIoU" in out


def test_the_memories_are_those_of_python(made, exported: Path) -> None:
    folder = made[1]
    session = folder / "ntre_session"
    segmenter = Segmenter.load(exported, threads=1)
    shots = {
        name: [(read_image(session / name / "images" / f), read_mask(session / name / "masks" / f)) for f in files]
        for name, files in {n: [f"key{i}.png" for i in range(3)] for n in ("my key", "corner")}.items()
    }
    for memory in segmenter.encode_supports(shots):
        for place in (folder / "ntre_memories", session / "_memories"):
            saved = SupportMemory.load(place / f"{memory.name}.safetensors")
            assert saved.name == memory.name
            assert saved.shot_scores == pytest.approx(memory.shot_scores)
            assert saved.calibration == pytest.approx(memory.calibration)
            np.testing.assert_allclose(saved.prototype, memory.prototype, atol=1e-5)


def test_the_commands_of_the_readme_run(made, scenes) -> None:
    session = made[1] / "ntre_session"
    text = (session / "README.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line.strip()) for line in text.splitlines() if line.startswith("    ntre ")]
    assert [c[1] for c in commands] == ["segment", "segment", "segment", "eval", "tune"]
    photo = scenes.photos / scenes.names[3]
    maps = []
    for command in commands[:3]:
        given = [str(photo) if word == "PHOTOS" else word for word in command[1:]]
        _run(SCRIPT, *given, cwd=session)
        maps.append(session / "_masks" / "key3.png")
        if "PHOTOS" in command:
            maps[-1] = maps[-1].rename(session / f"_map{len(maps)}.png")
    assert maps[0].read_bytes() == maps[1].read_bytes()
    assert np.asarray(Image.open(maps[0])).any()


def test_the_python_runs_and_gives_the_same(made, scenes, tmp_path: Path) -> None:
    server, folder = made
    session = folder / "ntre_session"
    shown = server.ask("GET", "/api/script").body.decode()
    assert shown == (session / "segment.py").read_text()
    photo = tmp_path / "photo.png"
    photo.write_bytes((scenes.photos / scenes.names[3]).read_bytes())
    told = _run(sys.executable, "-P", session / "segment.py", photo, cwd=tmp_path)
    assert "my key" in told
    found = np.asarray(Image.open(tmp_path / "photo.labels.png"))
    wanted = np.asarray(Image.open(folder / "ntre_masks" / "key3.png"))
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found)) > 1


def test_masks_hold_the_numbers_of_the_classes(made, scenes) -> None:
    masks = made[1] / "ntre_masks"
    assert (masks / "classes.txt").read_text() == "1 my key\n2 corner\n"
    assert sorted(p.name for p in masks.glob("*.png")) == scenes.names
    wanted = scenes.masks["key0.png"].copy()
    wanted[-60:, -60:] = 2
    wanted[:8] = 255
    np.testing.assert_array_equal(np.asarray(Image.open(masks / "key0.png")), wanted)


def test_coco_is_read_by_the_project(made, scenes) -> None:
    folder = made[1] / "ntre_coco"
    dataset = open_dataset(f"coco:{folder / 'coco.json'}")
    names = {name: number for number, name in dataset.class_names.items()}
    assert list(names) == ["my key", "corner"]
    assert len(dataset.images(names["my key"])) == 3  # shots alone were asked for
    content = json.loads((folder / "coco.json").read_text())
    assert sorted(p.name for p in (folder / "images").iterdir()) == sorted(i["file_name"] for i in content["images"])
    mask = dataset.mask(dataset.images(names["my key"])[0], names["my key"])
    wanted = scenes.masks["key0.png"].copy()
    wanted[-60:, -60:] = 0
    wanted[:8] = 0
    np.testing.assert_array_equal(mask == 1, wanted == 1)


def test_labelme_is_read_by_the_project(made, scenes) -> None:
    dataset = LabelmeDataset(made[1] / "ntre_labelme")
    names = {name: number for number, name in dataset.class_names.items()}
    assert "my key" in names
    wanted = scenes.masks["key1.png"].copy()
    wanted[-60:, -60:] = 0
    wanted[:8] = 0
    image = next(i for i in dataset.images(names["my key"]) if re.search("key1", i))
    np.testing.assert_array_equal(dataset.mask(image, names["my key"]) == 1, wanted == 1)

"""`ntre segment --write` in the formats of other tools: files where those look for them, with the masks of `mask`."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.labelme import labelme_mask
from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.videowriter import write_video

Done = CompletedProcess[str]

NAMES = ("fork", "spoon")
ALL = ("mask", "coco", "labelme", "yolo", "geojson", "polygons", "label-studio")


@pytest.fixture
def two(pictures: SimpleNamespace) -> list[str]:
    return [word for n, (i, m) in zip(NAMES, pictures.supports, strict=True) for word in ("-s", f"{n}={i},{m}")]


def written(*kinds: str) -> list[str]:
    return [word for kind in kinds for word in ("--write", kind)]


def test_every_format_gives_the_masks_back(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    done = call("segment", tiny.bundle, pictures.photos, *two, "--out", "o", *written(*ALL), "--instances")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "wrote 3 masks to o",
        "wrote 3 files of labelme to o/labelme",
        "wrote 3 files of yolo to o/yolo/labels",
        "wrote 3 files of geojson to o/geojson",
        "wrote 3 files of polygons to o/polygons",
        "wrote o/coco.json",
        "wrote o/label_studio.json, and label_studio.xml for the labelling interface",
    ]
    stems = sorted(path.stem for path in Path(pictures.photos).iterdir())
    listed = {p.relative_to(here / "o").as_posix() for p in (here / "o").rglob("*") if p.is_file()}
    endings = (".png", "labelme/.json", "yolo/labels/.txt", "geojson/.geojson", "polygons/.json")
    wanted = {ending.replace(".", f"{stem}.") for stem in stems for ending in endings}
    assert listed == wanted | {"coco.json", "label_studio.json", "label_studio.xml", "yolo/data.yaml"}
    assert (here / "o" / "yolo" / "data.yaml").read_text() == 'path: .\nnames:\n  0: "fork"\n  1: "spoon"\n'
    coco = json.loads((here / "o" / "coco.json").read_text())
    regions = 0
    for stem in stems:
        labels = np.asarray(Image.open(here / "o" / f"{stem}.png"))
        regions += sum(cv2.connectedComponents((labels == n).astype(np.uint8), connectivity=4)[0] - 1 for n in (1, 2))
        content = json.loads((here / "o" / "labelme" / f"{stem}.json").read_text())
        photo = here / "o" / "labelme" / content["imagePath"]
        assert read_image(photo).shape[:2] == labels.shape
        for number, name in enumerate(NAMES, 1):
            if (labels == number).any():
                np.testing.assert_array_equal(labelme_mask(photo, content, name) == 1, labels == number)
        drawn = np.zeros_like(labels)
        for line in (here / "o" / "yolo" / "labels" / f"{stem}.txt").read_text().splitlines():
            index, *shares = line.split()
            points = np.array(shares, np.float32).reshape(-1, 2) * np.array(labels.shape[::-1], np.float32)
            cv2.fillPoly(drawn, [points.astype(np.int32)], (int(index) + 1,))
        np.testing.assert_array_equal(drawn, labels)
        features = json.loads((here / "o" / "geojson" / f"{stem}.geojson").read_text())["features"]
        polygons = json.loads((here / "o" / "polygons" / f"{stem}.json").read_text())
        for number, entry in enumerate(polygons["classes"], 1):
            own = [f for f in features if f["properties"]["label"] == number]
            assert len(own) == len(entry["polygons"])
            assert sum(p["area"] for p in entry["polygons"]) == (labels == number).sum()
            assert all(0 <= f["properties"]["score"] <= 1 for f in own)
    assert len(coco["annotations"]) == regions > 3
    assert all(0 < annotation["score"] <= 1 for annotation in coco["annotations"])


def test_label_studio_finds_the_photos_from_where_the_command_ran(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    done = call("segment", tiny.bundle, pictures.photos, *two, "--out", "o", *written("label-studio"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label-studio"] == "o/label_studio.json"
    tasks = json.loads((here / "o" / "label_studio.json").read_text())
    assert len(tasks) == 3
    for task in tasks:
        address = task["data"]["image"]
        assert address.startswith("/data/local-files/?d=")
        assert " " not in address
        size = read_image(here / unquote(address.partition("=")[2])).shape[:2]
        for stroke in task["predictions"][0]["result"]:
            assert (stroke["original_height"], stroke["original_width"]) == size
    assert '<Label value="fork"' in (here / "o" / "label_studio.xml").read_text()


def test_frames_of_a_video_get_files_too(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    scene = read_image(pictures.photo)
    with write_video(here / "clip.mp4", (160, 200), 10) as write:
        for k in range(4):
            write(np.ascontiguousarray(scene[2 * k : 2 * k + 160, 2 * k : 2 * k + 200]), k / 10)
    kinds = written("labelme", "geojson", "label-studio")
    done = call("segment", tiny.bundle, "clip.mp4", *two, "--out", "o", *kinds, "--every", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "wrote 2 files of labelme to o/labelme",
        "wrote 2 files of geojson to o/geojson",
    ]
    for name in ("labelme/clip/000000.json", "labelme/clip/000002.json", "geojson/clip/000002.geojson"):
        assert (here / "o" / name).is_file()
    tasks = json.loads((here / "o" / "label_studio.json").read_text())
    assert [task["data"]["image"].partition("=")[2] for task in tasks] == ["clip/000000.png", "clip/000002.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--write", "lableme"), "Did you mean 'labelme'"),
        (("--write", "mask", "--instances"), "--instances is for --write coco"),
        (("--instances",), "--instances is for --write coco"),
        (("{other}", "--write", "yolo"), "would both be written as segmented/yolo/labels/wide.txt"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is(
    arguments: tuple[str, ...],
    words: str,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    Image.new("RGB", (90, 80)).save(tmp_path / "wide.jpg")
    given = [word.format(other=tmp_path / "wide.jpg") for word in arguments]
    assert words in refused("segment", tiny.bundle, pictures.photo, "-s", support, *given)
    assert not Path("segmented").exists()

"""`ntre tune` as a user runs it: better photos in, a bundle out; or nothing, and the reason."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import render_scene

RUN = ("tune", "base.safetensors", "album", "--out", "mine")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of each of three classes, as a user's folder."""
    folder = tmp_path_factory.mktemp("user") / "album"
    for index in range(24 * 6):
        if index % 24 > 2:
            continue
        scene = render_scene(index, seed=9)
        mask = (scene.labels == scene.target + 1).astype(np.uint8) * 255
        for kind, pixels in (("images", scene.image), ("masks", mask)):
            path = folder / f"class{scene.target}" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matcher on the demo model's backbone, whose threshold is far off: there is something to gain."""
    import torch

    from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint
    from ntre_deploy.model.config import MatcherConfig
    from ntre_deploy.model.heads import build_network
    from ntre_deploy.model.registry import checkpoint_file

    matcher = build_network(MatcherConfig(backbone="squeezenet1_1", input_size=97)).eval()
    matcher.backbone.load_state_dict(load_checkpoint(checkpoint_file("demo")).model.backbone.state_dict())
    with torch.no_grad():
        matcher.final_bias[1] += 2
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_checkpoint(path, matcher, {"head": "training-free"})
    return path


@pytest.fixture
def files(here: Path, album: Path, base: Path) -> Path:
    shutil.copytree(album, here / "album")
    shutil.copy(base, here / "base.safetensors")
    return here


@pytest.mark.slow
def test_a_better_model_is_written_under_the_name_given(files: Path, call: Callable[..., Any]) -> None:
    before = (files / "base.safetensors").read_bytes()
    done = call(*RUN, "--steps", "60", "--rate", "0.004")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (files / "mine").iterdir()) == ["mine.ntre", "mine.safetensors", "sheet.png"]
    assert "points on 6 held-out photos" in done.stdout
    assert "all target" in done.stdout
    assert "next: ntre segment mine/mine.ntre" in done.stdout
    assert len(done.stdout.splitlines()) < 24, "one screen"
    assert (files / "base.safetensors").read_bytes() == before
    manifest = json.loads((files / "mine" / "mine.ntre" / "manifest.json").read_text())
    assert manifest["name"] == "mine"
    assert manifest["model"]["config"]["adapter"] == 64
    assert manifest["model"]["origin"]["tuned"] is True
    assert {case["kind"] for entry in manifest["verification"] for case in entry["cases"]} == {"random", "folder:album"}
    with Image.open(files / "mine" / "sheet.png") as sheet:
        assert sheet.width > 1000
    scene = next((files / "album" / "class0" / "images").iterdir())
    shot = f"x={scene},{files / 'album' / 'class0' / 'masks' / scene.name}"
    segmented = call("segment", "mine/mine.ntre", scene, "--support", shot, "--out", "masks")
    assert segmented.returncode == 0, segmented.stderr
    again = call(*RUN, "--steps", "60", "--rate", "0.004")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_what_is_not_better_leaves_nothing(files: Path, call: Callable[..., Any]) -> None:
    done = call(*RUN, "--steps", "1", "--rate", "1e-9", "--json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Not better: ")
    assert not (files / "mine").exists()
    told = json.loads(done.stdout)
    assert told["kept"] is False
    assert told["bundle"] is None
    assert abs(told["gain"]["value"]) < 0.01
    assert [c["photos"] for c in told["classes"]] == [6, 6, 6]


@pytest.mark.slow
def test_a_killed_tune_goes_on(files: Path, start: Callable[..., Any], call: Callable[..., Any]) -> None:
    # as the test above: the same weights come out, whose graphs are traced already
    options = ("--steps", "60", "--rate", "0.004")
    process: subprocess.Popen[str] = start(*RUN, *options, cwd=files)
    state = files / "mine" / ".tune" / "state.safetensors"
    ends = time.monotonic() + 240
    while not state.is_file() and time.monotonic() < ends:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.is_file()
    assert not (files / "mine" / "mine.safetensors").exists()
    other = call(*RUN, "--steps", "61", "--rate", "0.004")
    assert other.returncode == 2
    assert "another tune" in other.stderr
    done = call(*RUN, *options)
    assert done.returncode == 0, done.stderr
    # the steps before the kill were not done again
    assert "step 10/60" not in done.stderr
    assert (files / "mine" / "mine.ntre" / "manifest.json").is_file()
    assert not (files / "mine" / ".tune").exists()


def _no_masks(folder: Path) -> None:
    shutil.rmtree(folder / "class0" / "masks")


def _one_class(folder: Path) -> None:
    for name in ("class1", "class2"):
        shutil.rmtree(folder / name)


def _other_size(folder: Path) -> None:
    path = next((folder / "class1" / "masks").iterdir())
    Image.fromarray(np.full((9, 7), 255, np.uint8)).save(path)


def _one_pixel(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.fromarray(np.full((1, 1), 255, np.uint8)).save(path)


def _two_photos(folder: Path) -> None:
    for kind in ("images", "masks"):
        for path in sorted((folder / "class0" / kind).iterdir())[2:]:
            path.unlink()
        shutil.rmtree(folder / "class2", ignore_errors=True)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_masks, "has no folder 'masks'"),
        (_one_class, "two classes or more"),
        (_other_size, "same size"),
        (_one_pixel, "2048 pixels of the target"),
        (_two_photos, "'class0' 2"),
    ],
)
def test_photos_that_cannot_be_used_are_refused(
    files: Path, refused: Callable[..., str], damage: Callable[[Path], None], words: str
) -> None:
    damage(files / "album")
    assert words in refused(*RUN)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tune", "base.safetensors", "nowhere", "--out", "mine"), "nowhere does not exist"),
        (("tune", "phots", "album", "--out", "mine"), "Did you mean 'photos'"),
        (("tune", "base.safetensors", "album", "--out", "mine.ntre"), "--out mine"),
        (("tune", "base.safetensors", "album", "--out", "album"), "exists already and holds files"),
        ((*RUN, "--rate", "0"), "--rate is 0"),
        ((*RUN, "--steps", "0"), "steps"),
    ],
)
def test_bad_options_are_refused(
    files: Path, refused: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(*arguments)


def test_few_photos_are_told(files: Path, call: Callable[..., Any]) -> None:
    for kind in ("images", "masks"):
        for path in sorted((files / "album" / "class0" / kind).iterdir())[3:]:
            path.unlink()
        for path in sorted((files / "album" / "class1" / kind).iterdir())[2:]:
            path.unlink()
    done = call(*RUN, "--steps", "1", "--rate", "1e-9")
    assert "note: fewer than 5 photos: 'class0' 3" in done.stdout
    assert "note: left out, with fewer than 3 usable photos: 'class1' 2" in done.stdout


def test_models_by_name_are_listed(call: Callable[..., Any]) -> None:
    done = call("models")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["demo", "photos"]
    assert set(json.loads(call("models", "--json").stdout)) == {"demo", "photos"}

"""`ntre segment` for people: folders, patterns and videos in; pictures, videos, run-length codes and a page out."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.imagefile import read_image
from ntre_deploy.runtime.sources.video import Video
from ntre_deploy.runtime.videowriter import write_video

Done = subprocess.CompletedProcess[str]

_FRAMES = 12


@pytest.fixture(scope="module")
def clip(pictures: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that moves by two pixels a frame."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scene = read_image(pictures.photo)
    with write_video(path, (160, 200), 10) as write:
        for k in range(_FRAMES):
            write(np.ascontiguousarray(scene[2 * k : 2 * k + 160, 2 * k : 2 * k + 200]))
    return path


@pytest.fixture(scope="module")
def two(pictures: SimpleNamespace) -> list[str]:
    """Options for two classes."""
    names = ("fork", "spoon")
    return [word for n, (i, m) in zip(names, pictures.supports, strict=True) for word in ("-s", f"{n}={i},{m}")]


def test_a_video_becomes_a_video_with_the_classes_drawn_in(
    tiny: SimpleNamespace, clip: Path, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    done = call("segment", tiny.bundle, clip, *two, "--out", "o")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"wrote o/clip.overlay.mp4 ({_FRAMES} frames)"
    assert {p.name for p in (here / "o").iterdir()} == {"clip.overlay.mp4", "overview.html"}
    made = Video.open(here / "o" / "clip.overlay.mp4")
    assert (made.size, made.rate, made.frames) == ((160, 200), 10.0, _FRAMES)
    pairs = zip(made.read(), Video.open(clip).read(), strict=True)
    differences = [np.abs(a.pixels.astype(int) - b.pixels).mean() for a, b in pairs]
    assert min(differences) > 3, "each frame has something drawn in"
    assert (here / "o" / "overview.html").read_text().count("data:image/jpeg") == 4


def test_masks_of_frames_and_codes_agree_with_each_other(
    tiny: SimpleNamespace, clip: Path, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    write = ["--write", "mask", "--write", "coco", "--every", "5"]
    done = call("segment", tiny.bundle, clip, pictures.photo, *two, "--out", "o", *write, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    video, photo = json.loads(done.stdout)["results"]
    assert (video["frames"], video["folder"]) == (3, "o/clip")
    assert set(video["shares"]) == {"fork", "spoon"}
    assert "overlay" not in photo
    names = {str(p.relative_to("o")) for p in Path("o").rglob("*") if p.is_file()}
    assert names == {"clip/000000.png", "clip/000005.png", "clip/000010.png", "wide.png", "coco.json"}
    found = coco.COCO("o/coco.json")
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == ["fork", "spoon"]
    images = {image["file_name"]: image for image in found.loadImgs(found.getImgIds())}
    assert images["clip/000005.png"]["frame"] == 5
    seen = 0
    for name, image in images.items():
        labels = np.asarray(Image.open(here / "o" / name))
        assert labels.shape == (image["height"], image["width"])
        again = np.zeros_like(labels)
        for annotation in found.loadAnns(found.getAnnIds(image["id"])):
            mask = found.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            again[mask] = annotation["category_id"]
            seen += 1
        np.testing.assert_array_equal(again, labels)
    assert seen > 2


def test_the_codes_are_a_dataset(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done]
) -> None:
    pytest.importorskip("pycocotools")
    from ntre_deploy.data.registry import open_dataset

    done = call("segment", tiny.bundle, pictures.photos, *two, "--out", "o", "--write", "coco", "--write", "mask")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["wrote 3 masks to o", "wrote o/coco.json"]
    data = open_dataset(f"coco:o/coco.json:{pictures.photos}")
    assert set(data.class_names.values()) == {"fork", "spoon"}
    files = {str(image["id"]): image["file_name"] for image in json.loads(Path("o/coco.json").read_text())["images"]}
    compared = 0
    for c, name in data.class_names.items():
        for image in data.images(c):
            labels = np.asarray(Image.open(Path("o") / Path(files[image]).with_suffix(".png")))
            np.testing.assert_array_equal(data.mask(image, c) == 1, labels == ("fork", "spoon").index(name) + 1)
            compared += 1
    assert compared


def test_patterns_and_what_was_seen_nowhere(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Done], here: Path
) -> None:
    done = call("segment", tiny.bundle, f"{pictures.photos}/*.png", *two, "--out", "o", "--write", "overlay")
    assert done.stdout == "wrote 2 overlays to o\n", done.stderr
    assert {p.name for p in (here / "o").iterdir()} == {"wide.overlay.jpg", "small grey.overlay.jpg"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{photo}", "--write", "maks"), "Did you mean 'mask'"),
        (("{photo}", "--write", "video"), "there is none among the inputs"),
        (("{photo}", "{clip}", "--write", "video"), "add --write overlay"),
        (("{photo}", "--every", "2"), "--every is for videos"),
        (("{photo}", "--partial"), "--partial is for videos"),
        (("{clip}", "--every", "0"), "--every '0'"),
        (("{clip}", "{other}/clip.mp4"), "would both be written as segmented/clip.overlay.mp4"),
        (("{photo}", "{other}/wide.jpg", "--write", "mask"), "would both be written as segmented/wide.png"),
        (("{photo}", "{other}/wide.png", "--write", "coco"), "would both be written as segmented/coco.json/wide.png"),
        (("{other}/cut.mp4",), "cut.mp4 cannot be opened"),
        (("{other}/none.mp4",), "none.mp4 does not exist"),
        (("no such *.jpg",), "fits the pattern no such *.jpg"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    arguments: tuple[str, ...],
    words: str,
    tiny: SimpleNamespace,
    clip: Path,
    pictures: SimpleNamespace,
    support: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "clip.mp4").write_bytes(clip.read_bytes())
    (other / "cut.mp4").write_bytes(clip.read_bytes()[:500])
    for name in ("wide.jpg", "wide.png"):
        Image.new("RGB", (90, 80)).save(other / name)
    places = {"photo": pictures.photo, "clip": clip, "other": other}
    assert words in refused("segment", tiny.bundle, *(a.format(**places) for a in arguments), "-s", support)


def test_a_video_that_ends_early_leaves_no_video_unless_it_may(
    tiny: SimpleNamespace, support: str, here: Path, call: Callable[..., Done]
) -> None:
    import cv2

    writer = cv2.VideoWriter("cut.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    whole = Path("cut.avi").read_bytes()
    Path("cut.avi").write_bytes(whole[: len(whole) // 2])
    done = call("segment", tiny.bundle, "cut.avi", "-s", support, "--out", "o")
    assert done.returncode == 2
    assert "of the 20 frames that it declares" in done.stderr
    assert "--partial" in done.stderr
    assert [p for p in here.rglob("*") if p.is_file() and p.name != "cut.avi"] == []
    done = call("segment", tiny.bundle, "cut.avi", "-s", support, "--out", "o", "--partial", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert 3 < result["frames"] < 17
    assert Video.open(here / "o" / "cut.overlay.mp4").frames == result["frames"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_of_a_video_leaves_nothing_half_written(
    number: int, tiny: SimpleNamespace, support: str, here: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with write_video(here / "long.mp4", (240, 320), 10) as write:
        for _ in range(1500):
            write(frame)
    process = start("segment", tiny.bundle, "long.mp4", "-s", support, "--out", "o", cwd=here)
    began = time.monotonic()
    while not list(here.glob("o/.long.overlay.mp4.partial-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 60
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err == "interrupted; nothing half-written is left\n"
    assert [p.name for p in here.rglob("*") if p.is_file()] == ["long.mp4"]


def test_a_page_shows_what_the_json_says(
    tiny: SimpleNamespace, pictures: SimpleNamespace, two: list[str], call: Callable[..., Any]
) -> None:
    done = call("segment", tiny.bundle, pictures.photos, *two, "--out", "o", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"engine", "results", "page", "shot_scores", "skipped", "warnings"}
    text = Path(told["page"]).read_text(encoding="utf-8")
    for result in told["results"]:
        assert f"<b>{Path(result['image']).name}</b>" in text
        for share in result["shares"].values():
            assert f"{share:.1%}" in text


@pytest.mark.slow
def test_a_terminal_gets_a_bar_over_the_frames_of_a_long_job_and_nobody_else_does(
    tiny: SimpleNamespace,
    support: str,
    here: Path,
    on_a_terminal: Callable[..., tuple[int, str, str]],
    ntre: Callable[..., Done],
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with write_video(here / "long.mp4", (240, 320), 10) as write:
        for _ in range(400):
            write(frame)
    arguments = ("segment", tiny.bundle, "long.mp4", "-s", support, "--out", "o")
    code, out, shown = on_a_terminal(*arguments, cwd=here)
    assert (code, out.splitlines()[0]) == (0, "wrote o/long.overlay.mp4 (400 frames)")
    assert "segmenting" in shown
    assert re.search(r"━+ +\d+/400 eta", shown), shown
    done = ntre(*arguments, "--every", "100", cwd=here)
    assert done.returncode == 0
    engine, warning = done.stderr.splitlines()
    assert engine.startswith("engine: ")
    assert warning == (
        "warning: the head of this model is untrained: its masks mean nothing; for photos there is "
        "`ntre export photos --out photos.ntre`"
    )


def test_shots_are_scored_by_each_other_and_classes_by_what_they_won(
    tiny: SimpleNamespace, pictures: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    (a, a_mask), (b, b_mask) = pictures.supports
    shots = ("-s", f"fork={a},{a_mask}", "-s", f"fork={b},{b_mask}", "-s", f"spoon={b},{b_mask}")
    arguments = ("segment", tiny.bundle, pictures.photo, *shots, "--write", "coco", "--write", "mask")
    done = call(*arguments, "--out", "o", "--save-memory", "m", "--json")
    assert (done.returncode, done.stderr.count("\n")) == (0, 2)
    told = json.loads(done.stdout)
    (result,) = told["results"]
    assert set(told["shot_scores"]) == {"fork"}
    assert len(told["shot_scores"]["fork"]) == 2
    assert told["warnings"][0].startswith("the head of this model is untrained")
    assert {name: score > 0 for name, score in result["scores"].items()} == {
        name: share > 0 for name, share in result["shares"].items()
    }
    listed = json.loads((here / "o" / "coco.json").read_text())["annotations"]
    assert {row["score"] for row in listed} == {score for score in result["scores"].values() if score}
    # the memories carry both, and are segmented as their shots were
    memories = ("--memory", "m/fork.safetensors", "--memory", "m/spoon.safetensors")
    again = call("segment", tiny.bundle, pictures.photo, *memories, "--out", "p")
    assert again.returncode == 0, again.stderr
    assert (here / "o" / "wide.png").read_bytes() == (here / "p" / "wide.png").read_bytes()
    shown = ", ".join(f"{100 * score:.0f}" for score in told["shot_scores"]["fork"])
    assert f"'fork': each shot segmented with the others, IoU {shown}\n" in again.stderr
    plain = call(*arguments, "--out", "q", "--no-leave-one-out", "--json")
    assert json.loads(plain.stdout)["shot_scores"] == {}


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ({"head": "trained", "dataset": "invented:14"}, "trained on rendered scenes (invented:14)"),
        ({"head": "trained", "dataset": "procedural:0"}, "trained on rendered scenes (procedural:0)"),
        ({"head": "untrained"}, "untrained"),
        ({"head": "untrained", "dataset": "coco:train"}, "untrained"),
        ({"head": "trained", "dataset": "coco:train"}, None),
        ({"head": "trained"}, None),
        ({}, None),
    ],
)
def test_a_model_that_never_saw_a_photo_is_named(origin: dict[str, str], words: str | None) -> None:
    from ntre_deploy.cli.segment import origin_warning

    warning = origin_warning(origin)
    assert warning is None if words is None else words in str(warning) and "ntre export photos" in str(warning)

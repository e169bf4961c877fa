"""`ntre segment` and where pictures come from: lists, folders of folders, damage, and streams that Ctrl-C ends."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.runtime.sources.video import Video
from ntre_deploy.runtime.videowriter import write_video

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A camera that dies after 25 frames, is gone for a while, and comes back for good."""
    spec = spec_from_file_location("streams", Path(__file__).parents[1] / "streams.py")
    assert spec is not None
    assert spec.loader is not None
    streams = module_from_spec(spec)
    spec.loader.exec_module(streams)
    with streams.camera([5, 25, 0, -1]) as state:
        yield state


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_folder_is_taken_with_what_is_inside_and_the_rest_is_named(
    tiny: SimpleNamespace, support: str, here: Path, call: Callable[..., Done]
) -> None:
    Path("in/b").mkdir(parents=True)
    for name in ("in/1.jpg", "in/b/1.jpg", "in/cut.jpg"):
        noise(200, 300).save(name)
    Path("in/cut.jpg").write_bytes(Path("in/1.jpg").read_bytes()[:9000])
    for name in ("notes.txt", "list.csv"):
        Path("in", name).write_text("words")
    done = call("segment", tiny.bundle, "in", "-r", "-s", support, "--out", "o", "--write", "coco", "--write", "mask")
    assert done.returncode == 0, done.stderr
    assert {str(p.relative_to("o")) for p in Path("o").rglob("*") if p.is_file()} == {"1.png", "b/1.png", "coco.json"}
    assert "skipped 2: no image or video (in/list.csv, in/notes.txt)\n" in done.stderr
    assert "skipped in/cut.jpg: is damaged or cut off" in done.stderr
    names = [image["file_name"] for image in json.loads(Path("o/coco.json").read_text())["images"]]
    assert names == ["1.jpg", "b/1.jpg"]
    done = call("segment", tiny.bundle, "in", "-s", support, "--out", "p", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [r["image"] for r in told["results"]] == ["in/1.jpg"]
    assert {s["path"]: s["reason"] for s in told["skipped"]}["in/b"] == "a folder inside; --recursive takes it"
    assert 'src="data:' in Path("p/overview.html").read_text()


def test_a_damaged_photo_that_is_named_is_an_error_before_anything_is_written(
    tiny: SimpleNamespace, support: str, here: Path, refused: Callable[..., str]
) -> None:
    noise(200, 300).save("good.jpg")
    noise(200, 300).save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:9000])
    assert "cut.jpg is damaged" in refused("segment", tiny.bundle, "good.jpg", "cut.jpg", "-s", support, "--json")


def test_a_list_comes_on_standard_input(
    tiny: SimpleNamespace, support: str, here: Path, ntre: Callable[..., Done]
) -> None:
    for name in ("a.png", "b c.png"):
        noise(40, 60).save(here / name)
    arguments = ("segment", tiny.bundle, "-", "-s", support, "--out", "o")
    done = ntre(*arguments, cwd=here, input="a.png\nb c.png\nnone.png\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "wrote 2 masks and overlays to o"
    assert "skipped none.png: does not exist or is no file\n" in done.stderr
    empty = ntre(*arguments, cwd=here, input="")
    assert (empty.returncode, empty.stderr) == (
        2,
        "error: The list on standard input names no file; give one path a line.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("97",), "Camera 97 cannot be opened"),
        (("rtsp://user:secret@127.0.0.1:9/cam",), "rtsp://127.0.0.1:9/cam cannot be opened"),
        (("{address}/mjpeg", "x.png"), "give one alone, or as the last input"),
    ],
)
def test_a_source_that_cannot_be_had_is_one_line(
    arguments: tuple[str, ...],
    words: str,
    server: SimpleNamespace,
    tiny: SimpleNamespace,
    support: str,
    here: Path,
    refused: Callable[..., str],
) -> None:
    noise(40, 60).save("x.png")
    given = [a.format(address=server.address) for a in arguments]
    message = refused("segment", tiny.bundle, *given, "-s", support)
    assert words in message
    assert "secret" not in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_stream_with_whole_files(
    number: int,
    server: SimpleNamespace,
    tiny: SimpleNamespace,
    support: str,
    here: Path,
    start: Callable[..., "subprocess.Popen[str]"],
) -> None:
    kinds = [word for kind in ("video", "coco", "page", "mask") for word in ("--write", kind)]
    noise(40, 60).save(here / "x.png")
    arguments = ("segment", tiny.bundle, "x.png", f"{server.address}/mjpeg", "-s", support, "--out", "o", *kinds)
    process = start(*arguments, cwd=here)
    began = time.monotonic()
    # until the camera has died and is there again for a while
    while server.connections < 4 or len(list(here.glob("o/http*/*.png"))) < 40:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "has broken off" in err
    assert "is there again" in err
    (made,) = here.glob("o/*.overlay.mp4")
    assert [p for p in here.rglob("*") if "partial" in p.name] == []
    video = Video.open(made)
    frames = list(video.read())
    content = json.loads((here / "o/coco.json").read_text())
    assert len(frames) == len(content["images"]) - 1 == len(list(here.glob("o/http*/*.png"))) >= 40
    assert f"wrote o/{made.name} ({len(frames)} frames)" in out
    assert f'src="{made.name}"' in (here / "o/overview.html").read_text()
    # the time in which the camera was gone is in the video too
    gaps = np.diff([frame.seconds for frame in frames])
    assert gaps.max() > 0.4
    assert [image["frame"] for image in content["images"][1:]] == sorted({i["frame"] for i in content["images"][1:]})


def test_a_video_keeps_its_times_and_without_pyav_names_the_extra(
    tiny: SimpleNamespace,
    support: str,
    here: Path,
    ntre: Callable[..., Done],
    without: Callable[..., Path],
) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    with write_video(here / "clip.mp4", (48, 64), 10) as write:
        for seconds in times:
            write(np.asarray(noise(48, 64)), seconds)
    done = ntre("segment", tiny.bundle, "clip.mp4", "-s", support, "--out", "o", cwd=here)
    assert done.returncode == 0, done.stderr
    made = [frame.seconds for frame in Video.open(here / "o/clip.overlay.mp4").read()]
    assert made == pytest.approx(times, abs=1e-4)
    bare = without("av")
    done = ntre("segment", tiny.bundle, "clip.mp4", "-s", support, "--out", "p", cwd=here, blocked=bare)
    assert done.returncode == 3
    assert done.stderr == (
        "error: Videos and streams need PyAV (av), which is not installed: pip install 'ntre_deploy[video]'\n"
    )
    noise(40, 60).save(here / "x.png")
    done = ntre("segment", tiny.bundle, "x.png", "-s", support, "--out", "p", cwd=here, blocked=bare)
    assert done.returncode == 0, done.stderr

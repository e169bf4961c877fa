"""Videos in and out; damaged ones are named, and nothing is half-written."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.sources.video import Video
from ntre_deploy.runtime.videowriter import write_video


def frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Flat colours that a lossy codec keeps apart: frame i is red = 8 i."""
    made = []
    for i in range(count):
        frame = np.full((height, width, 3), (8 * i, 40, 200), np.uint8)
        frame[:10, :10] = 255
        made.append(frame)
    return made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with write_video(path, (48, 64), 10) as write:
        for frame in frames(20):
            write(frame)
    return path


def test_what_was_written_is_read(clip: Path) -> None:
    video = Video.open(clip)
    assert (video.size, video.rate, video.frames) == ((48, 64), 10.0, 20)
    read = list(video.read())
    assert len(read) == 20
    for found, wanted in zip(read, frames(20), strict=True):
        assert found.pixels.dtype == np.uint8
        assert found.pixels.shape == wanted.shape
        assert np.abs(found.pixels[20:40, 20:40].astype(int) - wanted[20:40, 20:40]).max() < 12
    assert [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]


def test_each_nth_frame_is_the_nth(clip: Path) -> None:
    video = Video.open(clip)
    every = list(video.read())
    some = list(video.read(7))
    assert len(some) == 3
    for found, wanted in zip(some, every[::7], strict=True):
        assert (found.index, found.seconds) == (wanted.index, wanted.seconds)
        np.testing.assert_array_equal(found.pixels, wanted.pixels)


@pytest.mark.parametrize(("height", "width"), [(49, 65), (1, 1), (2, 301), (301, 3)])
def test_odd_sides_are_written_even(height: int, width: int, tmp_path: Path) -> None:
    with write_video(tmp_path / "odd.mp4", (height, width), 5) as write:
        for frame in frames(3, height, width):
            write(frame)
    assert Video.open(tmp_path / "odd.mp4").size == (max(height // 2 * 2, 2), max(width // 2 * 2, 2))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with write_video(tmp_path / "x.mp4", (48, 64), 10) as write:
            write(frames(1)[0])
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)

    def make() -> None:
        with write_video(tmp_path / "x.mp4", (240, 320), 10) as write:
            for _ in range(30):
                write(noise.integers(0, 256, (240, 320, 3), dtype=np.uint8))

    with pytest.raises(InputError, match=r"Cannot write .*x\.mp4"), full_disk(20_000):
        make()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def avi(path: Path, sizes: list[tuple[int, int]]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, sizes[0][::-1])
    rng = np.random.default_rng(1)
    for size in sizes:
        writer.write(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    writer.release()


def test_a_video_that_ends_early_is_an_error_unless_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    avi(path, [(48, 64)] * 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = Video.open(path)
    assert video.frames == 40
    with pytest.raises(InputError, match=r"ends after \d+ of the 40 frames.*--partial") as caught:
        list(video.read())
    read = len(list(video.read(partial=True)))
    assert 5 < read < 35
    assert f"after {read} of" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("none.mp4", lambda p: None, "does not exist"),
        ("folder.mp4", lambda p: p.mkdir(), "is not a file"),
        ("empty.mp4", lambda p: p.write_bytes(b""), "cannot be opened"),
        ("words.mp4", lambda p: p.write_text("words\n" * 400), "cannot be opened"),
    ],
)
def test_what_is_no_video_is_named(name: str, make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=words) as caught:
        Video.open(tmp_path / name)
    assert name in str(caught.value)


def test_ffmpeg_says_nothing_beside_the_error(tmp_path: Path) -> None:
    # FFmpeg takes its level at its first use, so a process of its own
    (tmp_path / "words.mp4").write_text("words\n" * 400)
    program = "import sys; from ntre_deploy.runtime.sources.video import Video; Video.open(sys.argv[1])"
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "words.mp4")], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert "InputError" in told.stderr
    assert "moov" not in told.stderr


def test_half_an_mp4_ends_early_and_one_without_its_index_cannot_be_opened(clip: Path) -> None:
    whole = clip.read_bytes()
    # the index stands at the front, so that a browser can begin
    assert 0 < whole.index(b"moov") < whole.index(b"mdat")
    clip.write_bytes(whole[: len(whole) * 7 // 10])
    video = Video.open(clip)
    with pytest.raises(InputError, match=r"ends after \d+ of the 20 frames.*--partial"):
        list(video.read())
    assert 0 < len(list(video.read(partial=True))) < 18
    clip.write_bytes(whole[: whole.index(b"moov") + 40])
    with pytest.raises(InputError, match=r"cannot be opened.*ffmpeg -i"):
        Video.open(clip)


def test_a_damaged_middle_is_an_early_end(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    rng = np.random.default_rng(2)
    with write_video(path, (48, 64), 10) as write:
        for _ in range(60):
            write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 4000] = bytes(4000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="ends after"):
        list(Video.open(path).read())

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

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.sources.video import Video
from ntre_deploy.runtime.videowriter import write_video

av = pytest.importorskip("av", reason="PyAV is not installed (extra [video])")


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


def phone(path: Path, degrees: int) -> None:
    """A clip as a phone writes it: held sideways, and turned by metadata alone. The left upper corner is white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees)
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:16, :16] = 255
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("degrees", "size", "corner"),
    [(0, (64, 96), (0, 0)), (90, (96, 64), (-1, 0)), (-90, (96, 64), (0, -1)), (180, (64, 96), (-1, -1))],
)
def test_phone_videos_stand_upright(
    degrees: int, size: tuple[int, int], corner: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "phone.mp4"
    phone(path, degrees)
    video = Video.open(path)
    assert video.size == size
    (first, *_) = video.read()
    assert first.pixels.shape == (*size, 3)
    corners = {(r, c): int(first.pixels[r, c].mean()) for r in (0, -1) for c in (0, -1)}
    assert max(corners, key=lambda place: corners[place]) == corner
    assert corners[corner] > 200
    # OpenCV turns by the same metadata
    there, frame = cv2.VideoCapture(str(path)).read()
    assert there
    assert np.abs(frame[..., ::-1].astype(int) - first.pixels).mean() < 4


def test_uneven_times_are_kept_on_the_way_in_and_out(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 2.0, 2.001, 3.25]
    with write_video(tmp_path / "a.mp4", (48, 64), 10) as write:
        for frame, seconds in zip(frames(len(times)), times, strict=True):
            write(frame, seconds)
    read = list(Video.open(tmp_path / "a.mp4").read())
    assert [f.seconds for f in read] == pytest.approx(times, abs=1e-4)
    some = list(Video.open(tmp_path / "a.mp4").read(2))
    assert [f.seconds for f in some] == pytest.approx(times[::2], abs=1e-4)
    assert [f.index for f in some] == [0, 2, 4, 6]
    with write_video(tmp_path / "b.mp4", (48, 64), 10) as write:
        for frame in read:
            write(frame.pixels, frame.seconds)
    again = list(Video.open(tmp_path / "b.mp4").read())
    assert [f.seconds for f in again] == pytest.approx(times, abs=1e-4)


def test_times_that_do_not_advance_are_written_all_the_same(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4", (48, 64), 10) as write:
        for frame, seconds in zip(frames(4), (1.0, 1.0, 0.5, 2.0), strict=True):
            write(frame, seconds)
    assert Video.open(tmp_path / "a.mp4").frames == 4


def test_what_is_written_is_what_browsers_play(clip: Path) -> None:
    with av.open(str(clip)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
        assert container.format.name.startswith("mov,mp4")


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".ts", "libx264"), (".avi", "mjpeg")]
)
def test_containers_with_and_without_an_index(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    read = list(Video.open(path).read())
    assert len(read) == 25
    assert read[-1].seconds == pytest.approx(24 / 25, abs=2e-3)


def test_a_clip_without_pyav_asks_for_the_extra(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EngineError, match=r"PyAV .* is not installed: pip install 'ntre_deploy\[video\]'"):
        Video.open(clip)


def test_half_a_file_without_an_index_is_told_by_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "long.mkv"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(60):
            pixels = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"ends after \d+ frames, \d\.\d of the 6\.0 seconds that it declares"):
        list(Video.open(path).read())
    assert 10 < len(list(Video.open(path).read(partial=True))) < 50

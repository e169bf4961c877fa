"""Cameras and streams, from a real server on loopback that dies in the middle and comes back."""

import threading
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.sources import live
from ntre_deploy.runtime.sources.live import Live, is_live
from ntre_deploy.runtime.sources.opening import open_source

av = pytest.importorskip("av", reason="PyAV is not installed (extra [video])")


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(name, Path(__file__).parents[2] / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


streams = load("streams")


def enough(count: int, seconds: float = 30.0) -> tuple[list[object], Callable[[], bool]]:
    """A list to fill, and a `stop` that tells when it is full or has taken too long."""
    seen: list[object] = []
    end = time.monotonic() + seconds
    return seen, lambda: len(seen) >= count or time.monotonic() > end


def test_a_stream_that_dies_is_opened_again_and_frames_go_on() -> None:
    told: list[str] = []
    with streams.camera([4, 20, 20, 0, -1]) as server:
        opened = Live.open(f"{server.address}/mjpeg")
        assert (opened.size, opened.ends) == ((48, 64), False)
        seen, stop = enough(50)
        for frame in opened.read(stop=stop, tell=told.append):
            seen.append(frame)
    assert len(seen) == 50, told
    assert [f.index for f in seen] == sorted({f.index for f in seen})
    times = [f.seconds for f in seen]
    assert times[0] == 0
    assert times == sorted(times)
    # 20 frames, then the connection ends: a refusal in between is one line and not two
    assert [line.rpartition(";")[0].partition(" (")[0] or line for line in told] == [
        f"{opened.address} has broken off",
        f"{opened.address} is there again",
    ] * (len(told) // 2)
    assert len(told) == 4
    assert server.connections >= 5


def test_the_waits_between_tries_grow_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_FIRST_WAIT", 0.05)
    monkeypatch.setattr(live, "_LAST_WAIT", 0.2)
    with streams.camera([3, 3]) as server:
        opened = Live.open(f"{server.address}/mjpeg")
        end = time.monotonic() + 1.5
        list(opened.read(stop=lambda: time.monotonic() > end, tell=lambda line: None))
        # 0.05, 0.1, 0.2, 0.2 ... seconds: about eight tries, and far from the 30 of the first wait alone
        assert 5 <= server.connections <= 12


def test_the_last_frame_wins_where_the_reader_is_slow() -> None:
    with streams.camera([3, -1], pause=0.01) as server:
        opened = Live.open(f"{server.address}/mjpeg")
        seen, stop = enough(6)
        late = []
        for frame in opened.read(stop=stop):
            seen.append(frame)
            time.sleep(0.25)
            late.append(frame)
    gaps = np.diff([f.index for f in late])
    # some 25 frames pass while one is looked at; a queue would give neighbours
    assert gaps.min() > 3, gaps
    for frame in late:
        assert abs(int(frame.pixels[20, 20, 0]) - frame.index % 256) <= 4


def test_frames_end_soon_after_they_are_to_and_leave_no_thread() -> None:
    with streams.camera([3, 5]) as server:
        opened = Live.open(f"{server.address}/mjpeg")
        began = time.monotonic()
        # nothing comes any more: `stop` is asked all the same, or this would never come back
        list(opened.read(stop=lambda: time.monotonic() - began > 1.0, tell=lambda line: None))
        for thread in threading.enumerate():
            if thread.name.startswith("read http"):
                thread.join(30)
                assert not thread.is_alive()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(100):
            pixels = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_mpeg_ts_that_breaks_off_comes_back(clip: Path) -> None:
    told: list[str] = []
    with streams.camera([-1, 300, -1, -1, -1], clip=clip) as server:
        opened = Live.open(f"{server.address}/ts")
        assert not opened.ends
        seen, stop = enough(80)
        for frame in opened.read(stop=stop, tell=told.append):
            seen.append(frame)
    assert len(seen) == 80
    assert "has broken off" in told[0]
    assert "is there again" in told[1]


def test_a_file_behind_an_address_is_read_whole_and_ends(clip: Path) -> None:
    with streams.camera([], clip=clip) as server:
        frames = list(open_source(f"{server.address}/clip"))
    assert len(frames) == 100
    assert frames[0].seconds == 0
    assert frames[-1].seconds == pytest.approx(99 / 25, abs=1e-3)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("97", "Camera 97 cannot be opened: there is none"),
        ("http://127.0.0.1:9/video", "http://127.0.0.1:9/video cannot be opened: Connection refused"),
        ("rtsp://user:secret@127.0.0.1:9/cam", "rtsp://127.0.0.1:9/cam cannot be opened: Connection refused"),
    ],
)
def test_what_is_not_there_is_one_line_without_a_password(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Live.open(address)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_and_addresses_are_live_and_files_of_that_name_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_live(text) for text in ("0", "12", "rtsp://x/y", "HTTP://x", "a.mp4", "x://y", "-", "²")] == [
        *[True] * 4,
        *[False] * 4,
    ]
    (tmp_path / "0").write_text("a file")
    assert not is_live("0")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("0", "camera-0"),
        ("rtsp://user:secret@10.0.0.7:554/stream1", "rtsp-10-0-0-7-stream1"),
        ("http://cam.example/../../etc?token=1", "http-cam-example-etc"),
    ],
)
def test_results_of_a_stream_have_a_plain_name(address: str, name: str) -> None:
    assert Live(address, (1, 1), 25.0).path == Path(name)

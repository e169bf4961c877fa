"""Cameras and streams: the newest frame, opened again when they break off."""

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.libav import libav, reason
from ntre_deploy.runtime.sources.frame import Frame
from ntre_deploy.runtime.sources.video import RATE, frame_rate, upright

Pixels = NDArray[np.uint8]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "udp", "srt", "tcp")
_MOST_NAME = 80
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://.+", re.IGNORECASE)
# seconds until a connection stands and until a frame comes, after which the stream counts as broken
_CONNECT, _SILENCE = 10.0, 10.0
# seconds before a broken stream is opened again, doubled each time in between
_FIRST_WAIT, _LAST_WAIT = 0.5, 15.0
# seconds after which a stream that is there again counts as steady
_STEADY = 5.0
# seconds after which a waiting reader looks whether it is to stop
_TICK = 0.1
# of RTSP: lost packets of UDP would smear pictures
_OPTIONS = {"rtsp_transport": "tcp"}


def never() -> bool:
    """What stops nothing."""
    return False


def is_live(given: str) -> bool:
    """Whether a text is the number of a camera or the address of a stream, unless a file has that name."""
    return bool(_ADDRESS.fullmatch(given)) or (given.isascii() and given.isdecimal() and not Path(given).exists())


@dataclass(frozen=True)
class Live:
    """A camera or stream that has given a frame.

    Attributes:
        address: number of a camera, or the stream's address.
        size: (H, W) of its first frame.
        rate: frames per second that it tells; a usual rate where it tells none.
        ends: whether it is a file behind an address, which has an end and is read whole.
    """

    address: str
    size: tuple[int, int]
    rate: float
    ends: bool = False

    @property
    def name(self) -> str:
        """The address for people, without a password and without what stands behind `?`, which may be one."""
        return _shown(self.address)

    @property
    def path(self) -> Path:
        """A name for what is written of it; no file."""
        if self.address.isdecimal():
            return Path(f"camera-{self.address}")
        parts = urlsplit(self.address)
        words = re.findall(r"\w+", f"{parts.scheme} {parts.hostname} {parts.path}")
        return Path("-".join(words)[:_MOST_NAME])

    @property
    def frames(self) -> None:
        """The number of frames is not known."""
        return None

    @classmethod
    def open(cls, address: str) -> "Live":
        """Connect, take one frame and close again.

        Raises:
            InputError: there is no such camera, the stream cannot be opened, or no frame comes.
            EngineError: PyAV is not installed.
        """
        with closing(_connect(address)) as frames:
            for seen in frames:
                return cls(address, (seen.pixels.shape[0], seen.pixels.shape[1]), seen.rate, seen.ends)
        raise InputError(f"{_shown(address)} gives no frame; see whether another program uses it.")

    def read(
        self, every: int = 1, *, stop: Callable[[], bool] = never, tell: Callable[[str], None] = print
    ) -> Iterator[Frame]:
        """The newest frame each time one is asked for; frames that came in between are left out.

        A stream that breaks off is opened again, after 0.5 seconds at first and 15 at most, for as long as it takes.  A
        file behind an address is read whole instead, and ends.

        Args:
            every: take each n-th frame that comes.
            stop: asked about ten times a second; True ends the frames.
            tell: called with a line when the stream has broken off and when it is there again, on another thread.

        Raises:
            InputError: a file behind an address cannot be read to its end.
            EngineError: PyAV is not installed.
        """
        if self.ends:
            with closing(_connect(self.address)) as frames:
                start = None
                for index, seen in enumerate(frames):
                    if stop():
                        return
                    when = index / self.rate if seen.time is None else seen.time
                    start = when if start is None else start
                    if index % every == 0:
                        yield self._frame(seen.pixels, index, max(when - start, 0.0))
            return
        latest = _Latest()
        pump = threading.Thread(target=self._pump, args=(latest, every, tell), daemon=True, name=f"read {self.name}")
        pump.start()
        start = None
        try:
            while not stop():
                if latest.failed is not None:
                    raise latest.failed
                found = latest.take(_TICK)
                if found is None:
                    continue
                pixels, index, when = found
                start = when if start is None else start
                yield self._frame(pixels, index, when - start)
        finally:
            latest.over.set()
            pump.join(_TICK)

    def _frame(self, pixels: Pixels, index: int, seconds: float) -> Frame:
        return Frame(pixels, self.name, None, index, seconds, (pixels.shape[0], pixels.shape[1]))

    def _pump(self, latest: "_Latest", every: int, tell: Callable[[str], None]) -> None:
        """Put every n-th frame into `latest`, and connect again when it ends, until `latest` is over."""
        try:
            self._keep_reading(latest, every, tell)
        except Exception as error:
            latest.failed = error

    def _keep_reading(self, latest: "_Latest", every: int, tell: Callable[[str], None]) -> None:
        index, wait, broken = 0, _FIRST_WAIT, False
        while not latest.over.is_set():
            told = "it ended"
            try:
                with closing(_connect(self.address)) as frames:
                    began = time.monotonic()
                    for seen in frames:
                        if broken:
                            tell(f"{self.name} is there again")
                            broken = False
                        # one that comes and goes is not to be opened twice a second for ever
                        if time.monotonic() - began > _STEADY:
                            wait = _FIRST_WAIT
                        if index % every == 0:
                            latest.put(seen.pixels, index, time.monotonic())
                        index += 1
                        if latest.over.is_set():
                            return
            except InputError as error:
                told = str(error).removeprefix(f"Stream {self.name} ").rstrip(".")
            if not broken:
                tell(f"{self.name} has broken off ({told}); it is opened again until it is there, Ctrl-C ends")
            broken = True
            latest.over.wait(wait)
            wait = min(2 * wait, _LAST_WAIT)


class _Latest:
    """A place for one frame: a newer one takes the place of one that nobody has taken."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failed: Exception | None = None
        self._changed = threading.Condition()
        self._held: tuple[Pixels, int, float] | None = None

    def put(self, pixels: Pixels, index: int, when: float) -> None:
        with self._changed:
            self._held = pixels, index, when
            self._changed.notify()

    def take(self, patience: float) -> tuple[Pixels, int, float] | None:
        with self._changed:
            if self._held is None:
                self._changed.wait(patience)
            found, self._held = self._held, None
            return found


class _Seen(NamedTuple):
    """A frame as it comes, its own time where it has one, the rate, and whether the source is a file that will end."""

    pixels: Pixels
    time: float | None
    rate: float
    ends: bool


def _connect(address: str) -> Generator[_Seen, None, None]:
    return _camera(int(address)) if address.isdecimal() else _stream(address)


def _camera(number: int) -> Generator[_Seen, None, None]:
    cv2.utils.logging.setLogLevel(0)
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise InputError(f"Camera {number} cannot be opened: there is none, or another program or user has it.")
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        while True:
            there, frame = capture.read()
            if not there:
                return
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            yield _Seen(pixels, None, rate if rate > 0 else RATE, False)
    finally:
        capture.release()


def _stream(address: str) -> Generator[_Seen, None, None]:
    av = libav()
    try:
        container = av.open(address, mode="r", options=_OPTIONS, timeout=(_CONNECT, _SILENCE))
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(f"Stream {_shown(address)} cannot be opened: {reason(error)}.") from error
    with container:
        if not container.streams.video:
            raise InputError(f"Stream {_shown(address)} holds no pictures.")
        stream = container.streams.video[0]
        # threads that decode frames side by side would each hold one back
        ends = container.duration is not None or container.size > 0
        stream.thread_type = "AUTO" if ends else "SLICE"
        rate = frame_rate(stream)
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    yield _Seen(upright(frame), frame.time, rate, ends)
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            raise InputError(f"Stream {_shown(address)} failed: {reason(error)}.") from error


def _shown(address: str) -> str:
    if address.isdecimal():
        return f"camera {address}"
    return re.sub(r"//[^/@]*@", "//", address).partition("?")[0]

"""Video files by PyAV: frames upright, each with its own time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.libav import libav, reason
from ntre_deploy.runtime.sources.frame import Frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".gif")
# what a file that tells no rate is played at
RATE, _MAX_RATE = 25.0, 1000.0
# containers without an index give the number of frames as duration x rate, and edit lists leave some out
_SLACK, _SLACK_SHARE = 2, 0.02
# seconds by which the last frame may come before the end that a container without an index declares
_SLACK_SECONDS = 1.0

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Video:
    """A video file whose first frame can be decoded.

    Attributes:
        path: of the file.
        size: (H, W) of its frames, as a player turns them.
        rate: frames per second; the mean where it varies.
        frames: number of frames that the file declares or has by its duration; None where it tells neither.
    """

    path: Path
    size: tuple[int, int]
    rate: float
    frames: int | None

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """Look at a file.

        Raises:
            InputError: it is missing, no video that FFmpeg can decode, or has no frame.
            EngineError: PyAV is not installed.
        """
        path = Path(path)
        with _opened(path) as (container, stream):
            first = next(_decoded(container, stream, path), None)
            if first is None:
                raise InputError(f"Video {path} has no frame that can be decoded. {_convert(path)}")
            rate, seconds = frame_rate(stream), _duration(container, stream)
            frames = stream.frames or (None if seconds is None else max(1, round(seconds * rate)))
            height, width = upright(first).shape[:2]
        return cls(path, (height, width), rate, frames)

    def read(self, every: int = 1, *, partial: bool = False) -> Iterator[Frame]:
        """Each `every`-th frame from the first on.

        Args:
            partial: take a file that ends before the number of frames, or the duration, that it declares.

        Raises:
            InputError: it cannot be opened, ends early, has damaged frames, or changes its size.
            EngineError: PyAV is not installed.
        """
        number, start, seconds = 0, None, 0.0
        with _opened(self.path) as (container, stream):
            for frame in _decoded(container, stream, self.path):
                if frame.pts is None:
                    seconds = number / self.rate
                else:
                    start = frame.time if start is None else start
                    # a clip that was cut out of another may begin with frames of an earlier time
                    seconds = max(frame.time - start, 0.0)
                # a frame that is left out need not be converted
                if number % every == 0:
                    pixels = upright(frame)
                    if pixels.shape[:2] != self.size:
                        raise InputError(
                            f"Frame {number} of {self.path} has {pixels.shape[1]} x {pixels.shape[0]} pixels and the "
                            f"first {self.size[1]} x {self.size[0]}; they must be equal. {_convert(self.path)}"
                        )
                    yield Frame(pixels, self.path.name, self.path, number, seconds, self.size)
                number += 1
            declared, whole = stream.frames, _duration(container, stream)
        if partial:
            return
        if declared:
            early = declared - number > max(_SLACK, _SLACK_SHARE * declared)
            what = f"of the {declared} frames that it declares"
        else:
            early = whole is not None and whole - seconds > max(_SLACK_SECONDS, _SLACK_SHARE * whole)
            what = f"frames, {seconds:.1f} of the {whole or 0:.1f} seconds that it declares"
        if early:
            raise InputError(
                f"Video {self.path} ends after {number} {what}: it is cut off or damaged; --partial takes the frames "
                "that are there."
            )


def frame_rate(stream: "VideoStream") -> float:
    """Frames per second of an opened stream; a usual rate where it tells none that can be."""
    rate = float(stream.average_rate or stream.base_rate or 0)
    return rate if math.isfinite(rate) and 0 < rate <= _MAX_RATE else RATE


def upright(frame: "VideoFrame") -> Pixels:
    """A decoded frame as a player shows it: uint8 RGB [H, W, 3], turned as the file says (phones turn by metadata)."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _duration(container: "InputContainer", stream: "VideoStream") -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # a container's sound may be longer than its pictures
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000
    return None


def _decoded(container: "InputContainer", stream: "VideoStream", path: Path) -> Iterator["VideoFrame"]:
    """Frames in the order in which they are shown; what a damaged packet holds is left out."""
    av = libav()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            return
        except av.error.InvalidDataError:
            continue
        # the end, told twice, and a file system that fails
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            raise InputError(f"Video {path} cannot be read: {reason(error)}. {_convert(path)}") from error
        yield from (frame for frame in frames if not frame.is_corrupt)


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    with reading(path, "Video"):
        if not path.is_file():
            raise InputError(f"Video {path} does not exist or is not a file.")
        # FFmpeg would not tell a lack of permission from damage
        path.open("rb").close()
    av = libav()
    try:
        # `file:` keeps a name such as `rtsp:x.mp4` from being taken for an address
        container = av.open(f"file:{path}", mode="r")
    except (av.error.FFmpegError, ValueError) as error:
        raise InputError(
            f"Video {path} cannot be opened: it is cut off or damaged, or FFmpeg lacks its format. {_convert(path)}"
        ) from error
    with container:
        if not container.streams.video:
            raise InputError(f"Video {path} cannot be opened: it is cut off or holds sound alone. {_convert(path)}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _convert(path: Path) -> str:
    return f"`ffmpeg -i {path} converted.mp4` may mend it."

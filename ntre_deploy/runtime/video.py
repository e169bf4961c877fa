"""Videos by OpenCV: frames in, and a file out that is there whole or not at all."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import atomic_file, reading

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
# what a file that tells no rate is played at
_RATE, _MAX_RATE = 25.0, 1000.0
# containers without an index give the number of frames as duration x rate
_SLACK, _SLACK_SHARE = 2, 0.02

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Video:
    """A video file whose first frame can be decoded.

    Attributes:
        path: of the file.
        size: (H, W) of its frames, as a player turns them.
        rate: frames per second.
        frames: number of frames that the file declares; None where it does not.
    """

    path: Path
    size: tuple[int, int]
    rate: float
    frames: int | None

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """Look at a file.

        Raises:
            InputError: it is missing, no video that OpenCV can decode, or has no frame.
        """
        path = Path(path)
        with _capture(path) as capture:
            there, frame = capture.read()
            if not there:
                raise InputError(f"Video {path} has no frame that can be decoded. {_convert(path)}")
            rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = math.isfinite(rate) and 0 < rate <= _MAX_RATE
        declared = round(frames) if math.isfinite(frames) and frames >= 1 else None
        return cls(path, (frame.shape[0], frame.shape[1]), rate if known else _RATE, declared)

    def read(self, every: int = 1, *, partial: bool = False) -> Iterator[Pixels]:
        """Each `every`-th frame from the first on, as uint8 RGB [H, W, 3].

        Args:
            partial: take a file that ends before the number of frames that it declares.

        Raises:
            InputError: it cannot be opened, ends early, or changes its size.
        """
        number = 0
        with _capture(self.path) as capture:
            # a frame that is left out need not be converted
            while capture.grab():
                if number % every == 0:
                    there, frame = capture.retrieve()
                    if not there:
                        break
                    if frame.shape[:2] != self.size:
                        raise InputError(
                            f"Frame {number} of {self.path} has {frame.shape[1]} x {frame.shape[0]} pixels and the "
                            f"first {self.size[1]} x {self.size[0]}; they must be equal. {_convert(self.path)}"
                        )
                    yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                number += 1
        if self.frames is not None and not partial:
            missing = self.frames - number
            if missing > max(_SLACK, _SLACK_SHARE * self.frames):
                raise InputError(
                    f"Video {self.path} ends after {number} of the {self.frames} frames that it declares: it is cut "
                    "off or damaged; --partial takes the frames that are there."
                )


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[Callable[[Pixels], None]]:
    """Yield a function that appends a frame (uint8 RGB [H, W, 3]) to an mp4 file (MPEG-4 part 2).

    The codec needs even sides, so an odd last row or column is left out.  The file takes its name when the block ends,
    and is removed when it fails.

    Args:
        size: (H, W) of every frame.

    Raises:
        InputError: the file cannot be written, or not to its end.
        EngineError: this OpenCV has no encoder.
    """
    height, width = max(size[0] // 2 * 2, 2), max(size[1] // 2 * 2, 2)
    _quiet()
    with atomic_file(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not writer.isOpened():
            raise EngineError(
                f"OpenCV cannot write the video {path} ({width} x {height}); `ntre doctor` tells whether it can write "
                "any. Leave videos out with --write mask."
            )
        written = 0

        def write(frame: Pixels) -> None:
            nonlocal written
            even = frame[:height, :width]
            if even.shape[:2] != (height, width):  # one pixel wide or high
                even = cv2.copyMakeBorder(
                    even, 0, height - even.shape[0], 0, width - even.shape[1], cv2.BORDER_REPLICATE
                ).astype(np.uint8, copy=False)
            writer.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))
            written += 1

        try:
            yield write
        finally:
            writer.release()
        # OpenCV does not say when the disk is full
        if _frames(temporary) != written:
            raise InputError(
                f"Cannot write {path}: it did not reach its end. Free some space or choose another folder."
            )


def _frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    try:
        return round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else -1
    finally:
        capture.release()


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    with reading(path, "Video"):
        if not path.is_file():
            raise InputError(f"Video {path} does not exist or is not a file.")
        # OpenCV would not tell a lack of permission from damage
        path.open("rb").close()
    _quiet()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(
                f"Video {path} cannot be opened: it is cut off or damaged, or OpenCV lacks its format. {_convert(path)}"
            )
        yield capture
    finally:
        capture.release()


def _convert(path: Path) -> str:
    return f"`ffmpeg -i {path} converted.mp4` may mend it."


def _quiet() -> None:
    # what they have to say comes as one line of ours; FFmpeg reads this when it is first used
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(0)

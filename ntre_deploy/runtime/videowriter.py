"""Videos out, by PyAV: H.264 in mp4, which browsers and phones play; whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.libav import libav, reason

Pixels = NDArray[np.uint8]

# encoder -> its options; the first that this PyAV has. VP9 in mp4 plays in Chromium and Firefox as well.
_ENCODERS = {
    "libx264": {"preset": "superfast", "crf": "20"},
    "libopenh264": {"rc_mode": "quality"},
    "libvpx-vp9": {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
}
# of a second, as MPEG counts: every usual rate is a whole number of them, and a frame's own time is kept
_TICKS = 90_000
# above it, a picture's colours are those of HDTV (ITU-R BT.709), as players take it
_BT709 = 1


class WriteFrame(Protocol):
    """Append a frame to a video that is being written."""

    def __call__(self, frame: Pixels, seconds: float | None = None) -> None:
        """`frame` is uint8 RGB [H, W, 3], shown from `seconds` on; None: when its turn comes at the video's rate."""


def find_encoder() -> str:
    """The encoder that videos are written with.

    Raises:
        EngineError: PyAV is not installed, or has none that browsers can play.
    """
    av = libav()
    for name in _ENCODERS:
        if name in av.codecs_available:
            try:
                av.Codec(name, "w")
            except (av.error.FFmpegError, ValueError):
                continue
            return name
    raise EngineError(
        f"This PyAV has none of the encoders {', '.join(_ENCODERS)}: pip install --force-reinstall av. "
        "Leave videos out with --write mask."
    )


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[WriteFrame]:
    """Yield a function that appends a frame to an mp4 file that can be played before it has come whole.

    The codec needs even sides, so an odd last row or column is left out.  The file takes its name when the block ends,
    and is removed when it fails.

    Args:
        size: (H, W) of every frame.
        rate: frames per second, or their mean where each frame is given its own time.

    Raises:
        InputError: the file cannot be written, or not to its end.
        EngineError: PyAV is not installed, or has no encoder.
    """
    height, width = max(size[0] // 2 * 2, 2), max(size[1] // 2 * 2, 2)
    av, encoder = libav(), find_encoder()
    with atomic_file(path) as temporary:
        written, last = 0, -1
        try:
            container = av.open(f"file:{temporary}", mode="w", options={"movflags": "+faststart"})
            with container:
                stream = container.add_stream(
                    encoder, rate=Fraction(rate).limit_denominator(1001), options=_ENCODERS[encoder]
                )
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                context = stream.codec_context
                context.time_base = Fraction(1, _TICKS)
                context.color_primaries = context.color_trc = context.colorspace = _BT709

                def write(frame: Pixels, seconds: float | None = None) -> None:
                    nonlocal written, last
                    picture = _picture(av, frame, height, width)
                    # a time that does not advance cannot be written
                    last = picture.pts = max(last + 1, round((written / rate if seconds is None else seconds) * _TICKS))
                    picture.time_base = context.time_base
                    container.mux(stream.encode(picture))
                    written += 1

                yield write
                if written:
                    container.mux(stream.encode())
        except av.error.FFmpegError as error:
            raise InputError(
                f"Cannot write {path}: {reason(error)}. Free some space or choose another folder."
            ) from error
        # not every muxer says when the disk is full
        if _frames(av, temporary) != written:
            raise InputError(
                f"Cannot write {path}: it did not reach its end. Free some space or choose another folder."
            )


def _picture(av: ModuleType, frame: Pixels, height: int, width: int):  # type: ignore[no-untyped-def]
    even = frame[:height, :width]
    if even.shape[:2] != (height, width):  # one pixel wide or high
        even = cv2.copyMakeBorder(
            even, 0, height - even.shape[0], 0, width - even.shape[1], cv2.BORDER_REPLICATE
        ).astype(np.uint8, copy=False)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _frames(av: ModuleType, path: Path) -> int:
    try:
        with av.open(f"file:{path}", mode="r") as container:
            return int(container.streams.video[0].frames)
    except (av.error.FFmpegError, IndexError):
        return -1

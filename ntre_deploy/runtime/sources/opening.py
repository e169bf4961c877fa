"""`open_source`: frames of whatever a user names, one after the other."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ntre_deploy.errors import NtreError, NtreWarning
from ntre_deploy.runtime.imagefile import read_reduced
from ntre_deploy.runtime.sources.finding import LIST, Source, find_sources, told
from ntre_deploy.runtime.sources.frame import Frame
from ntre_deploy.runtime.sources.live import Live, never


def open_source(
    source: str | Path | int,
    *,
    every: int = 1,
    recursive: bool = False,
    partial: bool = False,
    least: int | None = None,
    stop: Callable[[], bool] = never,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Frame]:
    """Frames of a photo, folder, pattern, video, camera or stream, or of the paths on standard input.

    It is opened at once, and read as frames are asked for: those of a camera or stream are the newest each time.

    Args:
        source: path of a photo, video or folder, pattern such as `photos/**/*.jpg`, number of a camera, address
            (`rtsp://`, `http://` ...), or `-` for a path a line on standard input.
        every: of videos, cameras and streams, take each n-th frame.
        recursive: take the folders inside a folder too.
        partial: take a video that ends before its declared end.
        least: pixels of the longer side that suffice of a photo: a JPEG is read at a half, a quarter or an eighth where
            that leaves as many, which is faster; `Frame.size` stays the photo's own.  None reads all.
        stop: asked between frames, and while a stream gives none; True ends the frames.
        tell: called with a line about a file that is skipped, or a stream that has broken off or is there again; by
            default it becomes an `NtreWarning`.

    Raises:
        InputError: it does not exist, holds nothing, or cannot be read; a photo or video that was found in a folder, by
            a pattern or in a list is skipped instead.
        EngineError: a video or stream, and PyAV is not installed.
    """
    say = tell or _warn
    listed = sys.stdin if source == LIST else ()
    found = find_sources([source if isinstance(source, Path) else str(source)], recursive=recursive, listed=listed)
    for skipped in found.skipped:
        say(f"skipped {skipped.path}: {skipped.reason}")
    return _frames(found.sources, every, partial, least, stop, say)


def _frames(
    sources: list[Source],
    every: int,
    partial: bool,
    least: int | None,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> Iterator[Frame]:
    for source in sources:
        if stop():
            return
        if isinstance(source.video, Live):
            yield from source.video.read(every, stop=stop, tell=say)
            continue
        try:
            if source.video is None:
                yield photo_frame(source.path, least)
            else:
                for frame in source.video.read(every, partial=partial):
                    yield frame
                    if stop():
                        return
        except NtreError as error:
            if not source.found:
                raise
            say(f"skipped {source.path}: {told(source.path, error)}")


def photo_frame(path: Path, least: int | None = None) -> Frame:
    """A photo as the only frame of its file.

    Args:
        least: as of `open_source`.

    Returns:
        a frame with the pixels uint8 [h, w, 3] that were read, and the size of the photo.

    Raises:
        InputError: it cannot be read.
    """
    pixels, size = read_reduced(path, least)
    return Frame(pixels, path.name, path, 0, 0.0, size)


def _warn(line: str) -> None:
    warnings.warn(line, NtreWarning, stacklevel=2)

"""Frames of whatever a program has: what `open_source` takes, one image, or anything that gives images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.pictures import as_image
from ntre_deploy.runtime.sources.frame import Frame
from ntre_deploy.runtime.sources.opening import open_source
from ntre_deploy.runtime.sources.video import VIDEO_SUFFIXES


def frames(source: Any) -> Iterator[Frame]:
    """Frames with all of their pixels, read one by one as they are asked for.

    Args:
        source: what `open_source` takes; one image as `as_image` takes it; or an iterable of images.

    Raises:
        InputError: as `open_source`, or what gives no images.
        EngineError: as `open_source`.
    """
    if isinstance(source, str | Path | int) and not isinstance(source, bool):
        return open_source(source)
    if isinstance(source, Image.Image) or getattr(source, "ndim", 0) == 3:
        return _given([source])
    if isinstance(source, Iterable):
        return _given(source)
    raise InputError(f"A source of images is expected, not {type(source).__name__}: a path, or an iterable of images.")


def photo_path(frame: Frame) -> Path | None:
    """The file that a frame is the whole of; None of those of videos and streams, and of pixels."""
    return None if frame.path is None or frame.path.suffix.lower() in VIDEO_SUFFIXES else frame.path


def _given(images: Iterable[Any]) -> Iterator[Frame]:
    for index, image in enumerate(images):
        pixels = as_image(image)
        path = Path(image) if isinstance(image, str | Path) else None
        yield Frame(pixels, "" if path is None else path.name, path, index, 0.0, pixels.shape[:2])

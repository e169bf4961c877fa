"""One image after the other from what the caller has: a source that is opened here, or anything that gives images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ntre_deploy.errors import InputError


def frames(source: Any) -> Iterator[tuple[Any, Path | None]]:
    """Images as `as_image` takes them, read one by one, each with its file where it is a photo's.

    Args:
        source: path, pattern, camera or address as `open_source` takes it; one image; or an iterable of images.

    Raises:
        InputError: it cannot be opened or read, or gives no images.
        EngineError: a video or stream, and PyAV is not installed.
    """
    if isinstance(source, str | Path) or type(source) is int:
        return _opened(source)
    if isinstance(source, Image.Image) or getattr(source, "ndim", 0) == 3:
        return iter([(source, None)])
    if isinstance(source, Iterable):
        return ((image, Path(image) if isinstance(image, str | Path) else None) for image in source)
    raise InputError(f"A source of images is expected, not {type(source).__name__}: a path, or an iterable of images.")


def _opened(source: str | Path | int) -> Iterator[tuple[Any, Path | None]]:
    from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES
    from ntre_deploy.runtime.sources.opening import open_source

    for frame in open_source(source):
        photo = frame.path is not None and frame.path.suffix.lower() in IMAGE_SUFFIXES
        yield frame.pixels, frame.path if photo else None

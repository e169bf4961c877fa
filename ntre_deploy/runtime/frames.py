"""One image after the other from what the caller has: a video, a folder, a file, or anything that gives images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES
from ntre_deploy.runtime.video import VIDEO_SUFFIXES, Video


def frames(source: Any) -> Iterator[Any]:
    """Images as `as_image` takes them, read one by one.

    Args:
        source: path of a video, of a folder (its photos in the order of their names) or of a photo; one image; or an
            iterable of images.

    Raises:
        InputError: a path that does not exist, a folder without photos, or what gives no images.
    """
    if isinstance(source, str | Path):
        return _of_path(Path(source))
    if isinstance(source, Image.Image) or getattr(source, "ndim", 0) == 3:
        return iter([source])
    if isinstance(source, Iterable):
        return iter(source)
    raise InputError(f"A source of images is expected, not {type(source).__name__}: a path, or an iterable of images.")


def _of_path(path: Path) -> Iterator[Any]:
    with reading(path, "Source"):
        if path.is_dir():
            photos = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not photos:
                raise InputError(f"Folder {path} holds no photos ({', '.join(IMAGE_SUFFIXES)}).")
            return iter(photos)
        if not path.is_file():
            raise InputError(f"Source {path} does not exist; a video, a folder of photos or a photo is expected.")
    return Video.open(path).read() if path.suffix.lower() in VIDEO_SUFFIXES else iter([path])

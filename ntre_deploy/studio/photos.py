"""The photos on the strip: those of the opened folders, and those that the page has sent."""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import image_size, read_image, read_reduced
from ntre_deploy.runtime.letterbox import MAX_SIDE
from ntre_deploy.runtime.sources.finding import Skipped, find_sources, told

Pixels = NDArray[np.uint8]

# the longer side at which photos are shown and marked: the network sees some hundred pixels, and a browser paints this
# without a pause
WORKING = 2048
THUMB = 320
# more is seldom a photo, and costs a browser's memory
MEGAPIXELS = 60
# bytes of working images that are kept
_KEPT = 256_000_000


@dataclass(frozen=True)
class Photo:
    """One photo.

    Attributes:
        id: of sixteen hexadecimal digits; the page knows no paths.
        name: of its file, for people.
        path: of its file.
        root: the opened folder, or the file itself where it was named; the file must lie in it.
        size: (H, W) of the upright photo.
    """

    id: str
    name: str
    path: Path
    root: Path
    size: tuple[int, int]

    @property
    def working(self) -> tuple[int, int]:
        """(H, W) at which it is shown and marked."""
        height, width = self.size
        scale = min(1.0, WORKING / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def file(self) -> Path:
        """Where its bytes are.

        Raises:
            InputError: it has gone, or has become a link to somewhere else.
        """
        resolved = self.path.resolve()
        if not (resolved == self.root or resolved.is_relative_to(self.root)):
            raise InputError(f"{self.name} is a link that leads out of the opened folder; it is not read.")
        if not resolved.is_file():
            raise InputError(f"{self.name} is not there any more.")
        return resolved


def open_photo(path: Path, root: Path, name: str | None = None, key: str | None = None) -> Photo:
    """A photo from its file's header.

    Args:
        root: resolved; see `Photo.root`.
        name: for people; None takes the file's own.
        key: what its id is made of; None takes its path.

    Raises:
        InputError: it is no image, too large, or leads out of `root`.
    """
    name = name or path.name
    resolved = path.resolve()
    digest = hashlib.sha256((key or str(resolved)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = Photo(digest, name, path, root, (0, 0)).file()
    try:
        height, width = image_size(file)
    except InputError as error:
        raise InputError(f"{name} {told(file, error)}.") from error
    if height * width > MEGAPIXELS * 1_000_000:
        raise InputError(
            f"{name} has {width} x {height} pixels ({height * width / 1e6:.0f} megapixels); the studio takes up to "
            f"{MEGAPIXELS}: scale it down."
        )
    if max(height, width) > MAX_SIDE:
        raise InputError(f"{name} has {width} x {height} pixels; a side is at most {MAX_SIDE}.")
    return Photo(digest, name, path, root, (height, width))


def find_photos(given: Sequence[Path]) -> tuple[list[Photo], list[Skipped]]:
    """The photos of folders and files, and what was left out.

    Raises:
        InputError: one that was named is missing, holds nothing, or is no photo.
    """
    photos: dict[str, Photo] = {}
    skipped: list[Skipped] = []
    for path in given:
        if not path.exists():
            raise InputError(f"{path} does not exist; give folders or photos behind the bundle.")
        root = path.resolve()
        if root.is_dir():
            sources, left = find_sources([path])
            skipped += left
            for source in sources:
                try:
                    if source.video is not None:
                        raise InputError("the studio takes photos, no videos")
                    photo = open_photo(source.path, root)
                    photos.setdefault(photo.id, photo)
                except InputError as error:
                    skipped.append(Skipped(source.path, told(source.path, error)))
        else:
            photo = open_photo(path, root)
            photos.setdefault(photo.id, photo)
    return list(photos.values()), skipped


class Pictures:
    """Decoded photos at their working size; the last ones are kept.  Several threads may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def working(self, photo: Photo) -> Pixels:
        """uint8 RGB [h, w, 3] of `Photo.working`.

        Raises:
            InputError: it cannot be read.
        """
        with self._lock:
            if (found := self._kept.get(photo.id)) is not None:
                self._kept.move_to_end(photo.id)
                return found
        pixels = _read_working(photo)
        with self._lock:
            self._kept[photo.id] = pixels
            while len(self._kept) > 1 and sum(p.nbytes for p in self._kept.values()) > _KEPT:
                self._kept.popitem(last=False)
        return pixels

    def jpeg(self, photo: Photo, side: int = WORKING) -> bytes:
        """The working image as JPEG, scaled so that no side is above `side`.

        Raises:
            InputError: it cannot be read.
        """
        pixels = self.working(photo)
        scale = min(1.0, side / max(pixels.shape[:2]))
        if scale < 1:
            height, width = pixels.shape[:2]
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=80 if side < WORKING else 92)
        return file.getvalue()


def _read_working(photo: Photo) -> Pixels:
    height, width = photo.working
    file = photo.file()
    try:
        if photo.working == photo.size:
            pixels = read_image(file)
        else:
            pixels = read_reduced(file, WORKING)[0]
    except InputError as error:
        raise InputError(f"{photo.name} {told(file, error)}.") from error
    if pixels.shape[:2] != (height, width):
        if photo.working == photo.size:
            raise InputError(f"{photo.name} has changed on the disk since it was opened; open it again.")
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    pixels.setflags(write=False)
    return pixels

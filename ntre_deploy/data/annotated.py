"""Photos beside annotation files as a dataset, whatever kind the files are of."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from types import MappingProxyType

from ntre_deploy.data._lists import WORTH_KEEPING, kept_lists
from ntre_deploy.data.annotations import Annotations, Entry
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, Progress, check_class
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import Pixels, image_size, read_image


class AnnotatedDataset:
    """Images and classes of `Annotations`; the kinds of files are its subclasses, which read them.

    Args:
        name: of the dataset.
        annotations: what the files say.
        folder: of the photos.
        kept: file for the image lists, where there are `WORTH_KEEPING` masks or more.
        fingerprint: changes with everything that the lists follow from.
        cache: folder for that file in place of its own.
        progress: called with (masks measured, masks in all) while the lists are built.
        strict: refuse annotations without a mask, instead of skipping them with an `NtreWarning`.

    Attributes:
        skipped: reason -> number of annotations that were skipped, as they show no pixel.

    Raises:
        InputError: no annotation has a mask, or one has none and `strict` is set.
    """

    def __init__(
        self,
        name: str,
        annotations: Annotations,
        folder: Path,
        kept: Path,
        fingerprint: str,
        *,
        cache: str | Path | None,
        progress: Progress,
        strict: bool,
    ) -> None:
        annotations.close(strict=strict)
        self._name = name
        self._annotations = annotations
        self._folder = folder
        self._kept = kept
        self._fingerprint = f"{MIN_TARGET_PIXELS} {fingerprint}"
        self._cache = None if cache is None else Path(cache)
        self._progress = progress
        self._lists: Sequence[Sequence[str]] | None = None
        self.skipped = MappingProxyType(dict(annotations.skipped))

    @property
    def name(self) -> str:
        """The kind of files, `:` and the last part of their name."""
        return self._name

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> name."""
        return self._annotations.class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images with at least `MIN_TARGET_PIXELS` in instances of the class, in the order of their numbers.

        The first call measures the masks of all classes, or reads the file with the lists if it belongs to these
        annotations (by their content).

        Raises:
            InputError: there is no such class, a segmentation is bad, an image that has to tell its size cannot be
                read, or the cache folder that the caller named cannot be written.
        """
        check_class(self._name, self.class_names, class_id)
        if self._lists is None:
            if self._cache is None and self._masks < WORTH_KEEPING:
                self._lists = self._build()
            else:
                beside, known, classes = self._kept.parent, self._annotations.entries, len(self.class_names)
                self._lists = kept_lists(
                    self._kept.name, beside, self._cache, self._fingerprint, known, classes, self._build
                )
        return self._lists[class_id]

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or its file is absent, unreadable or of another size.
        """
        entry = self._annotations.entry(image_id)
        path = self._path(entry)
        pixels = read_image(path)
        if entry.size is not None and pixels.shape[:2] != entry.size:
            raise InputError(
                f"Image {path} is {pixels.shape[1]} x {pixels.shape[0]} pixels after its EXIF orientation, "
                f"but {self._annotations.source} says {entry.size[1]} x {entry.size[0]}; annotate the image that is "
                "there."
            )
        return pixels

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]: 1 on instances of the class, 255 on its crowd regions that none covers, 0 elsewhere.

        Raises:
            InputError: there is no such image or class, or a segmentation is bad.
        """
        check_class(self._name, self.class_names, class_id)
        return self._annotations.mask(image_id, class_id, self._size(self._annotations.entry(image_id)))

    @property
    def _masks(self) -> int:
        return sum(len(regions) for regions in self._annotations.regions.values())

    def _build(self) -> list[tuple[str, ...]]:
        done, total = 0, self._masks
        lists: list[tuple[str, ...]] = []
        for class_id in self.class_names:
            found = []
            for image_id in self._annotations.regions[class_id]:
                size = self._size(self._annotations.entry(image_id))
                if self._annotations.area(image_id, class_id, size) >= MIN_TARGET_PIXELS:
                    found.append(image_id)
                done += 1
                self._progress(done, total)
            # Shorter first: ids are mostly numbers, which then stand in their own order
            lists.append(tuple(sorted(found, key=lambda image_id: (len(image_id), image_id))))
        return lists

    def _size(self, entry: Entry) -> tuple[int, int]:
        return entry.size or image_size(self._path(entry))

    def _path(self, entry: Entry) -> Path:
        path = self._folder / entry.file_name
        if "\\" in entry.file_name and not path.is_file():
            # written on Windows
            path = self._folder / PureWindowsPath(entry.file_name).as_posix()
        return path


def images_folder(spec: str, file: Path, given: str | Path | None) -> Path:
    """Folder of the photos of an annotation file: as given, else `images` beside the file, else the file's own folder.

    Args:
        spec: kind of the dataset, for messages.

    Raises:
        InputError: it does not exist.
    """
    beside = file.parent / "images"
    folder = Path(given) if given is not None else beside if beside.is_dir() else file.parent
    if not folder.is_dir():
        raise InputError(f"Images folder {folder} does not exist; give it as {spec}:{file}:IMAGES_FOLDER.")
    return folder


def folder_key(folder: Path) -> str:
    """Eight digits that tell two folders apart which share a cache."""
    return hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]

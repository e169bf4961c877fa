"""A folder of the user's own pictures: `PATH/<class>/images/<stem>.*` with `PATH/<class>/masks/<stem>.*`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ntre_deploy.data._lists import WORTH_KEEPING, kept_lists
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, Progress, check_class
from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.files import reading
from ntre_deploy.runtime.imagefile import IMAGE_SUFFIXES, Pixels, image_size, read_image, read_mask

# Lossy formats smear 0 and 1 into other values, so they are no masks
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


class FolderDataset:
    """One folder per class, each with a folder `images` and a folder `masks`; classes sorted by name.

    An image id is `<class>/<stem>`, so the same photo may stand under several classes with a mask for each.

    Args:
        path: the folder of the class folders.
        cache: folder for the file with the image lists.  Default: `path`, from `WORTH_KEEPING` masks on; where that
            cannot be written, nothing is kept.
        progress: called with (masks read, masks in all) while the lists are built.

    Raises:
        InputError: the folder or a part of it is missing, a class has no images, a mask is missing, or two
            files share a stem.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._path = Path(path)
        self._cache = None if cache is None else Path(cache)
        self._progress = progress
        folders = _class_folders(self._path)
        self._class_names = MappingProxyType({i: folder.name for i, folder in enumerate(folders)})
        self._files: dict[str, tuple[int, Path, Path]] = {}
        for class_id, folder in enumerate(folders):
            for stem, (image, mask) in _pairs(folder).items():
                self._files[f"{folder.name}/{stem}"] = (class_id, image, mask)
        self._lists: Sequence[Sequence[str]] | None = None

    @property
    def name(self) -> str:
        """`folder:` and the last part of the path."""
        return f"folder:{self._path.resolve().name}"

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> folder name."""
        return self._class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the class's images with at least `MIN_TARGET_PIXELS` of target, sorted.

        The first call reads the masks of all classes, or the file with the lists if it belongs to these files (by
        name, size, time).

        Raises:
            InputError: there is no such class, a mask cannot be read, its size is not that of its image, or the cache
                folder that the caller named cannot be written.
        """
        check_class(self.name, self._class_names, class_id)
        if self._lists is None:
            if self._cache is None and len(self._files) < WORTH_KEEPING:
                self._lists = self._build()
            else:
                # the name tells two folders apart that share the caller's cache
                key = hashlib.sha256(str(self._path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
                self._lists = kept_lists(
                    f".ntre-folder-{key}.json",
                    self._path,
                    self._cache,
                    self._fingerprint(),
                    self._files,
                    len(self._class_names),
                    self._build,
                )
        return self._lists[class_id]

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or it cannot be read.
        """
        return read_image(self._entry(image_id)[1])

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W] with 1 on the target, 0 elsewhere and 255 on ignored pixels.

        Raises:
            InputError: the image is unknown or belongs to another class (nothing says where this class is in
                it), the mask cannot be read, or its size is not that of its image.
        """
        wanted = check_class(self.name, self._class_names, class_id)
        owner, image_path, mask_path = self._entry(image_id)
        if owner != class_id:
            raise InputError(f"Image '{image_id}' of {self.name} has no mask for class '{wanted}'.")
        mask = read_mask(mask_path)
        size = image_size(image_path)
        if mask.shape != size:
            raise InputError(
                f"Mask {mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels but its image "
                f"{image_path.name} is {size[1]} x {size[0]}; both must have the same size."
            )
        return mask

    def _fingerprint(self) -> str:
        """SHA-256 over all that the lists follow from, with size and time of change for the files' content."""
        digest = hashlib.sha256(f"{MIN_TARGET_PIXELS}\n".encode())
        for image_id, (_, *files) in self._files.items():
            for path in files:
                with reading(path, "File"):
                    found = path.stat()
                text = f"{image_id}{path.suffix} {found.st_size} {found.st_mtime_ns}\n"
                digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _build(self) -> list[tuple[str, ...]]:
        lists: list[list[str]] = [[] for _ in self._class_names]
        for done, (image_id, (class_id, _, _)) in enumerate(self._files.items(), start=1):
            if np.count_nonzero(self.mask(image_id, class_id) == 1) >= MIN_TARGET_PIXELS:
                lists[class_id].append(image_id)
            self._progress(done, len(self._files))
        return [tuple(sorted(ids)) for ids in lists]

    def _entry(self, image_id: str) -> tuple[int, Path, Path]:
        if image_id not in self._files:
            raise InputError(f"{self.name} has no image '{image_id}'.{did_you_mean(image_id, self._files)}")
        return self._files[image_id]


def _class_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise InputError(f"Dataset folder {path} does not exist or is not a folder.")
    try:
        found = sorted(child for child in path.iterdir() if child.is_dir() and child.name[0] not in "._")
    except OSError as error:
        raise InputError(f"Dataset folder {path} cannot be listed: {error.strerror}.") from error
    if {"images", "masks"} <= {child.name for child in found}:
        raise InputError(f"{path} is the folder of one class; give the folder above it: folder:{path.parent}")
    if not found:
        raise InputError(f"Dataset folder {path} holds no class folders; expected {path}/<class>/images and masks.")
    return found


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Stem -> image and mask of one class folder."""
    images = _by_stem(folder, "images", IMAGE_SUFFIXES)
    masks = _by_stem(folder, "masks", MASK_SUFFIXES)
    if not images:
        raise InputError(f"Class '{folder.name}' has no images in {folder / 'images'} ({', '.join(IMAGE_SUFFIXES)}).")
    for stem, image in images.items():
        if stem not in masks:
            raise InputError(
                f"Image {image} has no mask; expected {folder / 'masks' / stem} "
                f"with one of {', '.join(MASK_SUFFIXES)}.{did_you_mean(stem, masks)}"
            )
    return {stem: (image, masks[stem]) for stem, image in images.items()}


def _by_stem(folder: Path, kind: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    inner = folder / kind
    if not inner.is_dir():
        raise InputError(f"Class folder {folder} has no folder '{kind}'; expected <class>/images and <class>/masks.")
    files: dict[str, Path] = {}
    for path in sorted(inner.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise InputError(f"{path} and {files[path.stem].name} share the name '{path.stem}'; rename one of them.")
        files[path.stem] = path
    return files

"""PASCAL-5i: VOC 2012 joined with the Semantic Boundaries Dataset (SBD).

The 20 classes and their folds are those of Shaban et al. (OSLSM, BMVC 2017): fold i of `folds.novel_classes(20, i)`
tests the labels 5i + 1 to 5i + 5.  The splits are those of the PFENet family: `train` is VOC train united with
SBD's `train_noval` (5,953 images), `val` is VOC val (1,449).
"""

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import numpy as np

from ntre_deploy.data._lists import kept_lists
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, Progress, check_class
from ntre_deploy.errors import InputError, did_you_mean, one_of
from ntre_deploy.files import reading
from ntre_deploy.runtime.imagefile import Pixels, _decode, _open, image_size, read_image
from ntre_deploy.runtime.masks import IGNORE

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SPLITS = ("train", "val")
# SBD's own list, and the joined list of the PFENet family; united with VOC train both give the 5,953
TRAIN_LISTS = ("train_noval.txt", "voc_sbd_merge_noduplicate.txt")

_LISTS = Path("ImageSets", "Segmentation")
_ID = re.compile(r"\d{4}_\d{6}", re.ASCII)
# SBD's files have some 10 kB; the bound keeps what a compressed one may unfold to within memory
_MAT_BYTES = 1 << 20


class PascalDataset:
    """One split of PASCAL-5i; class id c is VOC's label c + 1, an image id is VOC's, such as `2007_000032`.

    The lists per class come from the masks and are kept in a file, so that only the first use reads every mask.
    Photos are not needed until one is asked for.

    Args:
        voc: the folder VOC2012, with `ImageSets/Segmentation` (train.txt, val.txt) and, for the photos, `JPEGImages`.
        masks: a folder of PNGs (SegmentationClassAug: 0 to 20 and 255), or SBD's folder with `cls/*.mat`; with SBD, the
            images of VOC's own list take their masks from `SegmentationClass` (the published PNGs are made in this way
            too).  Default: `SegmentationClassAug` in `voc`; without it, `SegmentationClass`, which is enough for `val`.
        split: `train` or `val`.  `train` needs one of `TRAIN_LISTS` in the masks' folder, beside it, or in
            `ImageSets/Segmentation`.
        cache: folder for the file with the lists.  Default: `voc`; where that cannot be written, nothing is kept.
        progress: called with (masks read, masks in all) while the lists are built.

    Raises:
        InputError: unknown split, a folder or a list is absent, a list is damaged, or `train` shares images with `val`.
    """

    def __init__(
        self,
        voc: str | Path,
        masks: str | Path | None = None,
        split: str = "val",
        *,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._split = one_of(split, SPLITS, "Split")
        self._voc = _voc_folder(Path(voc))
        self._progress = progress
        png, sbd = _mask_folders(self._voc, masks, split)
        root = sbd or png
        self._photos = (self._voc / "JPEGImages", *((sbd / "img",) if sbd else ()))
        self._files = {i: (png / f"{i}.png") for i in _read_list(self._voc / _LISTS / f"{split}.txt")}
        if split == "train":
            for i in _train_list(self._voc, root):
                self._files.setdefault(i, sbd / "cls" / f"{i}.mat" if sbd else png / f"{i}.png")
        self._files = dict(sorted(self._files.items()))
        self._cache = None if cache is None else Path(cache)
        # The name tells two sets of masks apart, so that they do not replace each other's lists
        key = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        self._kept = f"ntre-pascal-{split}-{key}.json"
        self._lists: list[tuple[str, ...]] | None = None
        self._class_names = MappingProxyType(dict(enumerate(CLASSES)))

    @property
    def name(self) -> str:
        """`pascal:` and the split."""
        return f"pascal:{self._split}"

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> VOC's name."""
        return self._class_names

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all images of the split, sorted; also those in which no class is large enough."""
        return tuple(self._files)

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images with at least `MIN_TARGET_PIXELS` of the class, sorted.

        The first call reads every mask, or the file with the lists if it belongs to these masks (by id, size, time).

        Raises:
            InputError: there is no such class, a mask is absent, damaged or holds another value than 0 to 20 and 255,
                or the cache folder that the caller named cannot be written.
        """
        check_class(self.name, self._class_names, class_id)
        if self._lists is None:
            self._lists = kept_lists(
                self._kept, self._voc, self._cache, self._fingerprint(), self._files, len(CLASSES), self._build
            )
        return self._lists[class_id]

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or its photo is absent or cannot be read.
        """
        self._mask_file(image_id)
        if photo := self._photo(image_id):
            return read_image(photo)
        expected = self._photos[0] / f"{image_id}.jpg"
        raise InputError(f"Photo {expected} does not exist; the masks are here without VOC 2012's JPEGImages.")

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]: 1 on the class, 255 where VOC ignores (borders, difficult objects), 0 elsewhere.

        Raises:
            InputError: there is no such image or class, the mask cannot be read, or its photo (where it is there) has
                another size.
        """
        check_class(self.name, self._class_names, class_id)
        labels = _read_labels(self._mask_file(image_id))
        if (photo := self._photo(image_id)) and (size := image_size(photo)) != labels.shape:
            raise InputError(
                f"Mask {self._files[image_id]} is {labels.shape[1]} x {labels.shape[0]} pixels but its image {photo} "
                f"is {size[1]} x {size[0]}; both must have the same size."
            )
        mask = np.asarray(labels == class_id + 1, np.uint8)
        mask[labels == IGNORE] = IGNORE
        return mask

    def _mask_file(self, image_id: str) -> Path:
        if image_id not in self._files:
            raise InputError(f"{self.name} has no image '{image_id}'.{did_you_mean(image_id, self._files)}")
        return self._files[image_id]

    def _photo(self, image_id: str) -> Path | None:
        return next((p for folder in self._photos if (p := folder / f"{image_id}.jpg").is_file()), None)

    def _fingerprint(self) -> str:
        """SHA-256 over all that the lists follow from, with size and time of change for the masks' content."""
        digest = hashlib.sha256(f"{MIN_TARGET_PIXELS}\n".encode())
        for image_id, path in self._files.items():
            try:
                found = path.stat()
            except OSError as error:
                raise InputError(f"Image {image_id} of {self.name} has no mask; expected {path}.") from error
            digest.update(f"{image_id}{path.suffix} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _build(self) -> list[list[str]]:
        lists: list[list[str]] = [[] for _ in CLASSES]
        for done, (image_id, path) in enumerate(self._files.items(), start=1):
            pixels = np.bincount(_read_labels(path).ravel(), minlength=len(CLASSES) + 1)
            for class_id in np.flatnonzero(pixels[1 : len(CLASSES) + 1] >= MIN_TARGET_PIXELS):
                lists[class_id].append(image_id)
            self._progress(done, len(self._files))
        return lists


def _voc_folder(path: Path) -> Path:
    if (path / _LISTS).is_dir():
        return path
    inner = [path / name for name in ("VOC2012", "VOCdevkit/VOC2012") if (path / name / _LISTS).is_dir()]
    hint = f" Did you mean '{inner[0]}'?" if inner else ""
    raise InputError(f"{path} is no VOC 2012 folder; {_LISTS.as_posix()} is expected in it.{hint}")


def _mask_folders(voc: Path, given: str | Path | None, split: str) -> tuple[Path, Path | None]:
    """Folder of the PNG masks, and SBD's folder where it is used."""
    own, joined = voc / "SegmentationClass", voc / "SegmentationClassAug"
    if given is None and not joined.is_dir() and split == "train":
        raise InputError(f"Split 'train' of {voc} needs SBD's masks too; name them: pascal:{voc}:MASKS_FOLDER@train.")
    if given is None:
        return (joined if joined.is_dir() else own), None
    masks = Path(given)
    for sbd in (masks, masks / "dataset", masks / "benchmark_RELEASE" / "dataset"):
        if (sbd / "cls").is_dir():
            return own, sbd
    with reading(masks, "Masks folder"):
        if any(child.suffix == ".png" for child in masks.iterdir()):
            return masks, None
    raise InputError(f"Masks folder {masks} holds neither PNG masks nor SBD's folder 'cls' with .mat files.")


def _train_list(voc: Path, root: Path) -> list[str]:
    folders = (root, root.parent, voc / _LISTS)
    for path in (folder / name for folder in folders for name in TRAIN_LISTS):
        if not path.is_file():
            continue
        found = _read_list(path)
        # SBD's train.txt is the usual mistake: images of VOC val are in it
        val = voc / _LISTS / "val.txt"
        if shared := set(found) & set(_read_list(val)):
            raise InputError(
                f"{path} shares {len(shared)} images with {val}, such as {min(shared)}; expected SBD's train_noval.txt."
            )
        return found
    raise InputError(
        f"Split 'train' needs SBD's list {TRAIN_LISTS[0]} (5,623 ids; it comes from SBD's page and not with the "
        f"archive): put it into {folders[0]} or {folders[2]}."
    )


def _read_list(path: Path) -> list[str]:
    """Ids of a list: one a line, alone or as the photo's path with the mask's behind it (PFENet's lists)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"Image list {path} cannot be read: {reason}; expected VOC image ids.") from error
    ids = []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            # Ids become file names, so nothing but VOC's form passes
            ids.append(PurePosixPath(words[0]).stem)
            if not _ID.fullmatch(ids[-1]):
                raise InputError(f"{path}, line {number}: {words[0][:40]!r} names no VOC image such as 2007_000032.")
    if ids:
        return ids
    raise InputError(f"Image list {path} is empty; expected one id such as 2007_000032 a line.")


def _read_labels(path: Path) -> Pixels:
    """uint8 [H, W] with 0 to 20 and 255, from a PNG or from SBD's .mat file."""
    labels = _read_mat(path) if path.suffix == ".mat" else _read_png(path)
    odd = labels[(labels > len(CLASSES)) & (labels != IGNORE)]
    if odd.size:
        raise InputError(f"Mask {path} holds the value {odd.min()}; labels are 0 to {len(CLASSES)} and 255.")
    return labels


def _read_png(path: Path) -> Pixels:
    with _open(path, "Mask") as image:
        if image.mode not in ("L", "P"):
            raise InputError(f"Mask {path} has the mode {image.mode}; expected a palette or grey PNG of label numbers.")
        return np.asarray(_decode(image, path, "Mask", None), np.uint8)


def _read_mat(path: Path) -> Pixels:
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError as error:
        raise InputError("SBD's .mat masks need scipy: pip install 'ntre_deploy[train]'.") from error
    with reading(path, "Mask"):
        content = path.read_bytes() if path.stat().st_size <= _MAT_BYTES else b""
    try:
        labels = scipy_io.loadmat(BytesIO(content), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"]
    # On damaged files scipy raises errors of many kinds, zlib's and its own among them
    except Exception as error:
        labels = error
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise InputError(f"Mask {path} is damaged or none of SBD's; expected GTcls.Segmentation as uint8 [H, W].")
    return labels

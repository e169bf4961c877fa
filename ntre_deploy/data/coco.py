"""COCO-format annotations: polygons and run-length codes, turned into one mask per class and image."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np

from ntre_deploy.data._lists import WORTH_KEEPING, kept_lists
from ntre_deploy.data._segmentation import Segmentation, encode, mask_api
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS, Progress, check_class
from ntre_deploy.errors import InputError, NtreWarning, did_you_mean
from ntre_deploy.runtime.imagefile import MAX_PIXELS, Pixels, read_image

# numbers of a polygon that shows a pixel
_TRIANGLE = 6


@dataclass(frozen=True)
class _Regions:
    """Segmentations of one class in one image."""

    instances: list[Segmentation] = field(default_factory=list)
    crowds: list[Segmentation] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    file_name: str
    height: int
    width: int


class CocoDataset:
    """Images and classes of a COCO annotation file; class ids are the ranks of the category ids.

    Args:
        annotations: the JSON file.
        images: folder of the photos; default `images` beside the file, else the file's own folder.
        cache: folder for the file with the image lists.  Default: the annotation file's, from `WORTH_KEEPING` masks
            on; where that cannot be written, nothing is kept.
        progress: called with (masks measured, masks in all) while the lists are built.

    Annotations without a mask, of which tools write some among thousands, are left out; an `NtreWarning` counts them.

    Attributes:
        skipped: reason -> number of such annotations.

    Raises:
        InputError: the file is absent, no JSON or not COCO, names files outside the folder, or pycocotools is
            missing.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None = None,
        *,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        mask_api()
        self._file = Path(annotations)
        beside = self._file.parent / "images"
        self._folder = Path(images) if images is not None else beside if beside.is_dir() else self._file.parent
        content, self._sha256 = _load(self._file)
        if not self._folder.is_dir():
            raise InputError(
                f"Images folder {self._folder} does not exist; give it as coco:{self._file}:IMAGES_FOLDER."
            )
        ranks, names = _categories(self._file, content["categories"])
        self._class_names = MappingProxyType(names)
        self._entries = _entries(self._file, content["images"])
        self._regions, skipped = _group(self._file, content["annotations"], ranks, self._entries)
        self.skipped = MappingProxyType(dict(skipped))
        if skipped:
            _tell_skipped(self._file, skipped, len(content["annotations"]))
        self._cache = None if cache is None else Path(cache)
        self._progress = progress
        self._lists: Sequence[Sequence[str]] | None = None

    @property
    def name(self) -> str:
        """`coco:` and the annotation file's name without its ending."""
        return f"coco:{self._file.stem}"

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> category name, in the order of the category ids."""
        return self._class_names

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images with at least `MIN_TARGET_PIXELS` in instances of the class, in the order of their numbers.

        The first call measures the masks of all classes, or reads the file with the lists if it belongs to this
        annotation file (by its content).

        Raises:
            InputError: there is no such class, a segmentation of the file is bad, or the cache folder that the caller
                named cannot be written.
        """
        check_class(self.name, self._class_names, class_id)
        if self._lists is None:
            if self._cache is None and self._masks < WORTH_KEEPING:
                self._lists = self._build()
            else:
                name = f"ntre-coco-{self._file.stem}-{self._sha256[:8]}.json"
                fingerprint = f"{MIN_TARGET_PIXELS} {self._sha256}"
                beside, classes = self._file.parent, len(self._class_names)
                self._lists = kept_lists(name, beside, self._cache, fingerprint, self._entries, classes, self._build)
        return self._lists[class_id]

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or its file is absent, unreadable or of another size.
        """
        entry = self._entry(image_id)
        path = self._folder / entry.file_name
        if "\\" in entry.file_name and not path.is_file():
            # written on Windows
            path = self._folder / PureWindowsPath(entry.file_name).as_posix()
        pixels = read_image(path)
        if pixels.shape[:2] != (entry.height, entry.width):
            raise InputError(
                f"Image {path} is {pixels.shape[1]} x {pixels.shape[0]} pixels after its EXIF orientation, "
                f"but {self._file} says {entry.width} x {entry.height}; annotate the image that is there."
            )
        return pixels

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W]: 1 on instances of the class, 255 on its crowd regions that none covers, 0 elsewhere.

        Raises:
            InputError: there is no such image or class, or a segmentation is bad.
        """
        check_class(self.name, self._class_names, class_id)
        entry = self._entry(image_id)
        mask = np.zeros((entry.height, entry.width), np.uint8)
        regions = self._regions[class_id].get(image_id, _Regions())
        for segmentations, value in ((regions.crowds, 255), (regions.instances, 1)):
            if segmentations:
                mask[mask_api().decode(self._merged(image_id, segmentations)) != 0] = value
        return mask

    def ids_of(self, file_name: str) -> list[str]:
        """Ids of the images whose files have this name, whatever folder they are in."""
        return [i for i, entry in self._entries.items() if PureWindowsPath(entry.file_name).name == file_name]

    @property
    def _masks(self) -> int:
        return sum(len(regions) for regions in self._regions.values())

    def _build(self) -> list[tuple[str, ...]]:
        api, done, total = mask_api(), 0, self._masks
        lists: list[tuple[str, ...]] = []
        for class_id in self._class_names:
            found = []
            for image_id, regions in self._regions[class_id].items():
                # The area of the merged code is the pixel count of its mask, without decoding it
                if regions.instances and api.area(self._merged(image_id, regions.instances)) >= MIN_TARGET_PIXELS:
                    found.append(image_id)
                done += 1
                self._progress(done, total)
            # Shorter first: ids are mostly numbers, which then stand in their own order
            lists.append(tuple(sorted(found, key=lambda image_id: (len(image_id), image_id))))
        return lists

    def _entry(self, image_id: str) -> _Entry:
        if image_id not in self._entries:
            raise InputError(f"{self._file} has no image '{image_id}'.{did_you_mean(image_id, self._entries)}")
        return self._entries[image_id]

    def _merged(self, image_id: str, segmentations: list[Segmentation]) -> Any:
        """Union of several segmentations as one compressed code of pycocotools."""
        entry = self._entries[image_id]
        try:
            return mask_api().merge([encode(s, entry.height, entry.width) for s in segmentations])
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{self._file}: image {image_id} has a bad segmentation: {error}.") from error


def _load(path: Path) -> tuple[dict[str, list[Any]], str]:
    """The three lists of the file, and its SHA-256."""
    if not path.is_file():
        raise InputError(f"Annotation file {path} does not exist or is not a file.")
    try:
        text = path.read_bytes()
        content = json.loads(text)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is not JSON that can be read: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not COCO: expected an object with images, annotations and categories.")
    keys = ("images", "annotations", "categories")
    if missing := [key for key in keys if not isinstance(content.get(key), list)]:
        raise InputError(f"{path} is not COCO: the lists {', '.join(missing)} are missing.")
    return {key: content[key] for key in keys}, hashlib.sha256(text).hexdigest()


def _record(file: Path, kind: str, index: int, record: Any, keys: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """`record` when it is an object that holds `keys` with values of these types."""
    if not isinstance(record, dict):
        raise InputError(f"{file}: {kind}[{index}] is not an object.")
    for key, types in keys.items():
        if key not in record:
            raise InputError(f"{file} is not COCO: {kind}[{index}] has no '{key}'.")
        if types and type(record[key]) not in types:
            expected = " or ".join(t.__name__ for t in types)
            raise InputError(f"{file}: '{key}' of {kind}[{index}] is a {type(record[key]).__name__}, not {expected}.")
    return record


def _categories(file: Path, records: list[Any]) -> tuple[dict[int, int], dict[int, str]]:
    """Category id -> class id, and class id -> name."""
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        _record(file, "categories", index, record, {"id": (int,), "name": (str,)})
        if record["id"] in names:
            raise InputError(f"{file}: the category id {record['id']} occurs twice.")
        names[record["id"]] = record["name"]
    if not names:
        raise InputError(f"{file} has no categories.")
    ranks = {category: rank for rank, category in enumerate(sorted(names))}
    return ranks, {rank: names[category] for category, rank in ranks.items()}


def _entries(file: Path, records: list[Any]) -> dict[str, _Entry]:
    keys: dict[str, tuple[type, ...]] = {
        "id": (int, str),
        "file_name": (str,),
        "width": (int,),
        "height": (int,),
    }
    entries: dict[str, _Entry] = {}
    for index, record in enumerate(records):
        _record(file, "images", index, record, keys)
        name, height, width = record["file_name"], record["height"], record["width"]
        if not 0 < height * width <= MAX_PIXELS or height < 0:
            raise InputError(f"{file}: images[{index}] is {width} x {height}; 1 to {MAX_PIXELS:,} pixels are allowed.")
        # Windows rules too: on every system a backslash or a drive must not be a way out
        parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
        absolute = name.startswith(("/", "\\")) or bool(PureWindowsPath(name).drive)
        if not name or absolute or ".." in parts or not name.isprintable():
            raise InputError(f"{file}: file_name {name!r} of images[{index}] leaves the images folder or is no name.")
        if str(record["id"]) in entries:
            raise InputError(f"{file}: the image id {record['id']} occurs twice.")
        entries[str(record["id"])] = _Entry(name, height, width)
    return entries


def _shows_nothing(polygon: Any) -> bool:
    """Whether this is a polygon of fewer than three points."""
    return isinstance(polygon, list) and len(polygon) < _TRIANGLE and len(polygon) % 2 == 0


def _without_mask(record: dict[str, Any]) -> str | None:
    """Why an annotation shows no pixel; None for one that does, or that is to be refused when it is used."""
    segmentation = record.get("segmentation")
    if segmentation is None:
        return "box only" if record.get("bbox") else "empty"
    if not isinstance(segmentation, list) or not all(map(_shows_nothing, segmentation)):
        return None
    return "of fewer than three points" if any(segmentation) else "empty"


def _tell_skipped(file: Path, skipped: Counter[str], total: int) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    warnings.warn(
        f"{file}: skipped {sum(skipped.values()):,} of {total:,} annotations: {reasons}", NtreWarning, stacklevel=3
    )


def _group(
    file: Path, records: list[Any], ranks: dict[int, int], entries: dict[str, _Entry]
) -> tuple[dict[int, dict[str, _Regions]], Counter[str]]:
    """Class id -> image id -> segmentations, and how many annotations have none for which reason."""
    keys: dict[str, tuple[type, ...]] = {"image_id": (int, str), "category_id": (int,)}
    skipped: Counter[str] = Counter()
    regions: dict[int, dict[str, _Regions]] = {rank: {} for rank in ranks.values()}
    for index, record in enumerate(records):
        _record(file, "annotations", index, record, keys)
        image_id = str(record["image_id"])
        if image_id not in entries:
            raise InputError(f"{file}: annotations[{index}] belongs to image {image_id}, which is not listed.")
        if record["category_id"] not in ranks:
            raise InputError(f"{file}: annotations[{index}] has the unknown category {record['category_id']}.")
        if record.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{file}: 'iscrowd' of annotations[{index}] must be 0 or 1.")
        if reason := _without_mask(record):
            skipped[reason] += 1
            continue
        segmentation = record["segmentation"]
        if isinstance(segmentation, list):
            segmentation = [part for part in segmentation if not _shows_nothing(part)]
        own = regions[ranks[record["category_id"]]].setdefault(image_id, _Regions())
        (own.crowds if record.get("iscrowd") else own.instances).append(segmentation)
    if records and sum(skipped.values()) == len(records):
        raise InputError(f"{file}: none of its {len(records):,} annotations has a mask; export it with polygons.")
    return regions, skipped

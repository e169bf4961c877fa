"""COCO-format annotations: polygons and run-length codes, turned into one mask per class and image."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntre_deploy.data._segmentation import mask_api
from ntre_deploy.data.annotated import AnnotatedDataset, images_folder
from ntre_deploy.data.annotations import BOX, EMPTY, FEW, Annotations, load_json
from ntre_deploy.data.dataset import Progress
from ntre_deploy.errors import InputError

# numbers of a polygon that shows a pixel
_TRIANGLE = 6


class CocoDataset(AnnotatedDataset):
    """Images and classes of a COCO annotation file; class ids are the ranks of the category ids.

    Args:
        annotations: the JSON file.
        images: folder of the photos; default `images` beside the file, else the file's own folder.
        cache: folder for the file with the image lists.  Default: the annotation file's, from `WORTH_KEEPING` masks
            on; where that cannot be written, nothing is kept.
        progress: called with (masks measured, masks in all) while the lists are built.
        strict: refuse annotations without a mask, which are skipped else, and counted in an `NtreWarning`.

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
        strict: bool = False,
    ) -> None:
        mask_api()
        file = Path(annotations)
        found, sha256 = read_coco(file)
        folder = images_folder("coco", file, images)
        kept = file.with_name(f"ntre-coco-{file.stem}-{sha256[:8]}.json")
        name = f"coco:{file.stem}"
        super().__init__(name, found, folder, kept, sha256, cache=cache, progress=progress, strict=strict)


def read_coco(file: Path, content: tuple[Any, bytes] | None = None) -> tuple[Annotations, str]:
    """What a COCO file says, and its SHA-256.

    Args:
        content: its parsed JSON and bytes, where they are there already.

    Raises:
        InputError: as `CocoDataset`.
    """
    parsed, text = content or load_json(file, "Annotation file")
    if not isinstance(parsed, dict):
        raise InputError(f"{file} is not COCO: expected an object with images, annotations and categories.")
    keys = ("images", "annotations", "categories")
    if missing := [key for key in keys if not isinstance(parsed.get(key), list)]:
        raise InputError(f"{file} is not COCO: the lists {', '.join(missing)} are missing.")
    ranks, names = _categories(file, parsed["categories"])
    found = Annotations(file, names)
    for index, record in enumerate(parsed["images"]):
        _record(file, "images", index, record, _IMAGE)
        size = (record["height"], record["width"])
        found.add_image(f"{file}: images[{index}]", str(record["id"]), record["file_name"], size)
    _group(file, parsed["annotations"], ranks, found)
    return found, hashlib.sha256(text).hexdigest()


_IMAGE: Mapping[str, tuple[type, ...]] = {"id": (int, str), "file_name": (str,), "width": (int,), "height": (int,)}


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


def _categories(file: Path, records: list[Any]) -> tuple[dict[int, int], list[str]]:
    """Category id -> class id, and the names in the order of class ids."""
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        _record(file, "categories", index, record, {"id": (int,), "name": (str,)})
        if record["id"] in names:
            raise InputError(f"{file}: the category id {record['id']} occurs twice.")
        names[record["id"]] = record["name"]
    if not names:
        raise InputError(f"{file} has no categories.")
    ranks = {category: rank for rank, category in enumerate(sorted(names))}
    return ranks, [names[category] for category in ranks]


def _shows_nothing(polygon: Any) -> bool:
    """Whether this is a polygon of fewer than three points."""
    return isinstance(polygon, list) and len(polygon) < _TRIANGLE and len(polygon) % 2 == 0


def _without_mask(record: dict[str, Any]) -> str | None:
    """Why an annotation shows no pixel; None for one that does, or that is to be refused when it is used."""
    segmentation = record.get("segmentation")
    boxed = record.get("bbox")
    nothing = isinstance(segmentation, list) and not any(segmentation)
    if segmentation is None or nothing:
        return BOX if isinstance(boxed, list) and any(boxed) else EMPTY
    if not isinstance(segmentation, list) or not all(map(_shows_nothing, segmentation)):
        return None
    return FEW


def _group(file: Path, records: list[Any], ranks: dict[int, int], found: Annotations) -> None:
    keys: dict[str, tuple[type, ...]] = {"image_id": (int, str), "category_id": (int,)}
    for index, record in enumerate(records):
        _record(file, "annotations", index, record, keys)
        image_id = str(record["image_id"])
        if image_id not in found.entries:
            raise InputError(f"{file}: annotations[{index}] belongs to image {image_id}, which is not listed.")
        if record["category_id"] not in ranks:
            raise InputError(f"{file}: annotations[{index}] has the unknown category {record['category_id']}.")
        if record.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{file}: 'iscrowd' of annotations[{index}] must be 0 or 1.")
        if reason := _without_mask(record):
            found.skip(reason)
            continue
        segmentation = record["segmentation"]
        if isinstance(segmentation, list):
            segmentation = [part for part in segmentation if not _shows_nothing(part)]
        found.add(ranks[record["category_id"]], image_id, segmentation, crowd=bool(record.get("iscrowd")))

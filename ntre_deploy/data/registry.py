"""The datasets by the text that names one on the command line."""

import re
from pathlib import Path

from ntre_deploy.data.dataset import Dataset, Progress
from ntre_deploy.errors import InputError, one_of

KINDS = ("procedural", "invented", "pascal", "coco", "folder", "labelme", "yolo", "cvat")
# scenes without a single photo
RENDERED = ("procedural", "invented")
FORMS = (
    "procedural[:SEED], invented[:SEED], pascal:VOC_FOLDER[:MASKS_FOLDER][@train|@val], "
    "coco:ANNOTATIONS.json[:IMAGES_FOLDER], cvat:ANNOTATIONS.xml[:IMAGES_FOLDER], labelme:FOLDER, "
    "yolo:DATA.yaml[@train|@val|@test|@all], yolo:FOLDER or folder:PATH"
)

# A path up to a colon; the colon of a Windows drive belongs to it
_PATH = r"((?:[A-Za-z]:[\\/])?[^:]+)"


def open_dataset(
    spec: str,
    *,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
    strict: bool = False,
) -> Dataset:
    """Open the dataset that `spec` names.

    * `procedural` or `procedural:SEED`: rendered scenes of 24 named classes, no files needed.
    * `invented` or `invented:SEED`: rendered scenes of 800 invented classes, to learn from.
    * `pascal:VOC_FOLDER[:MASKS_FOLDER][@train|@val]`: PASCAL-5i from the folder VOC2012 and a folder of PNG masks
      (SegmentationClassAug) or SBD's folder (.mat masks); see `PascalDataset` for the defaults.  The split is `val`
      where none is given; a path that holds an `@` behind its last slash needs one.
    * `coco:ANNOTATIONS.json[:IMAGES_FOLDER]`: COCO annotations; the images folder defaults to `images` beside
      the JSON file, else to the file's own folder.
    * `cvat:ANNOTATIONS.xml[:IMAGES_FOLDER]`: an export as "CVAT for images 1.1"; the images folder as of `coco`.
    * `labelme:FOLDER`: LabelMe's JSON files and their photos, also in folders of the folder.
    * `yolo:DATA.yaml[@train|@val|@test|@all]` or `yolo:FOLDER`: YOLO's segmentation text; the split must be named where
      the YAML file has several.
    * `folder:PATH`: `PATH/<class>/images/` and `PATH/<class>/masks/`.

    Args:
        spec: the text above.
        cache: folder for image lists that take long to make; default: beside the data.
        progress: called with (masks read, masks in all) while such lists are made.
        strict: refuse annotations without a mask (empty ones, boxes, lines), which `coco`, `cvat`, `labelme` and `yolo`
            skip else, and count in an `NtreWarning`.

    Raises:
        InputError: the kind is unknown, the rest does not fit it, the files cannot be used, or `strict` refuses them.
    """
    kind, colon, rest = spec.partition(":")
    # A bare path is what people type first, so it gets the exact text to type instead
    if spec and kind not in KINDS and Path(spec).exists():
        raise InputError(
            f"Dataset '{spec}' names no kind; did you mean '{guess_kind(Path(spec))}:{spec}'? Use {FORMS}."
        )
    one_of(kind, KINDS, f"Dataset '{spec}': kind" if colon else "Dataset")
    if kind == "procedural":
        from ntre_deploy.data.procedural import ProceduralDataset

        return ProceduralDataset(_seed(spec, rest) if colon else 0)
    if kind == "invented":
        from ntre_deploy.data.invented import invented_scenes

        return invented_scenes(_seed(spec, rest) if colon else 0)
    if not rest:
        raise InputError(f"Dataset '{spec}' names no path; use {FORMS}.")
    if kind == "folder":
        from ntre_deploy.data.folder import FolderDataset

        return FolderDataset(Path(rest), cache=cache, progress=progress)
    if kind == "pascal":
        from ntre_deploy.data.pascal import PascalDataset

        voc_folder, masks, split = _pascal_parts(spec, rest)
        return PascalDataset(voc_folder, masks, split, cache=cache, progress=progress)
    if kind == "labelme":
        from ntre_deploy.data.labelme import LabelmeDataset

        return LabelmeDataset(Path(rest), cache=cache, progress=progress, strict=strict)
    if kind == "yolo":
        from ntre_deploy.data.yolo import YoloDataset

        source, chosen = _yolo_parts(rest)
        return YoloDataset(source, chosen, cache=cache, progress=progress, strict=strict)
    if kind == "cvat":
        from ntre_deploy.data.cvat import CvatDataset

        file, images = _file_parts(rest, ".xml")
        return CvatDataset(file, images, cache=cache, progress=progress, strict=strict)
    from ntre_deploy.data.coco import CocoDataset

    file, images = _file_parts(rest, ".json")
    return CocoDataset(file, images, cache=cache, progress=progress, strict=strict)


def guess_kind(path: Path) -> str:
    """The kind of dataset that a file or folder looks like."""
    if path.is_dir():
        if (path / "ImageSets").is_dir():
            return "pascal"
        if any((path / name).is_file() for name in ("data.yaml", "dataset.yaml")):
            return "yolo"
        return "labelme" if any(path.glob("*.json")) else "folder"
    return {".xml": "cvat", ".yaml": "yolo", ".yml": "yolo", "": "folder"}.get(path.suffix.lower(), "coco")


def _file_parts(rest: str, ending: str) -> tuple[Path, Path | None]:
    """Annotation file and images folder, split behind the ending and not at the first colon: Windows paths hold one."""
    head, found, images = rest.rpartition(f"{ending}:")
    if found and images:
        return Path(head + ending), Path(images)
    return Path(rest.removesuffix(":")), None


def _yolo_parts(rest: str) -> tuple[Path, str | None]:
    """YAML file or folder, and split; a path that holds an `@` is taken as it is where it exists."""
    path, at, split = rest.rpartition("@")
    if not at or "/" in split or "\\" in split or Path(rest).exists():
        return Path(rest), None
    return Path(path), split


def _seed(spec: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32):
        kind = spec.partition(":")[0]
        raise InputError(f"Dataset '{spec}': the seed must be an integer from 0 to 4294967295, as in {kind}:7.")
    return int(text)


def _pascal_parts(spec: str, rest: str) -> tuple[str, str | None, str]:
    """VOC folder, masks folder and split."""
    paths, at, split = rest.rpartition("@")
    if not at or "/" in split or "\\" in split:
        paths, split = rest, "val"
    found = re.fullmatch(f"{_PATH}(?::{_PATH}?)?", paths)
    if found is None:
        raise InputError(f"Dataset '{spec}' does not name one or two folders; use {FORMS}.")
    return found[1], found[2], split

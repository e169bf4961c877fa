"""What every dataset offers, the size rule, and the text that names a dataset on the command line."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.images import Pixels
from ntre_deploy.errors import InputError, one_of

# A class counts in an image from here on, as in the image lists of PASCAL-5i and COCO-20i (PFENet)
MIN_TARGET_PIXELS = 2 * 32 * 32

KINDS = ("procedural", "invented", "pascal", "coco", "folder")
# scenes without a single photo
RENDERED = ("procedural", "invented")
FORMS = (
    "procedural[:SEED], invented[:SEED], pascal:VOC_FOLDER[:MASKS_FOLDER][@train|@val], "
    "coco:ANNOTATIONS.json[:IMAGES_FOLDER] or folder:PATH"
)

# Called with (done, in all) while something long is read
Progress = Callable[[int, int], None]

# A path up to a colon; the colon of a Windows drive belongs to it
_PATH = r"((?:[A-Za-z]:[\\/])?[^:]+)"


class Dataset(Protocol):
    """Images with one mask per class; few-shot episodes are drawn from it.

    Class ids are 0, 1, 2, ... without gaps.  Everything is deterministic: two objects made from the same
    files or seed give the same lists and arrays.
    """

    @property
    def name(self) -> str:
        """Short name without machine-dependent parts; it is written into episode files."""
        ...

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class id -> name, in the order of the ids."""
        ...

    def images(self, class_id: int) -> Sequence[str]:
        """Ids of the images that hold at least `MIN_TARGET_PIXELS` of the class, sorted.

        Raises:
            InputError: there is no such class, or a file behind it cannot be read.
        """
        ...

    def image(self, image_id: str) -> Pixels:
        """The photo as uint8 RGB [H, W, 3].

        Raises:
            InputError: there is no such image, or its file cannot be read.
        """
        ...

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [H, W] of the image's size: 1 on the class, 0 elsewhere, 255 where pixels are to be ignored.

        Raises:
            InputError: there is no such image or class, or a file cannot be read.
        """
        ...


@runtime_checkable
class Labelled(Protocol):
    """A dataset that knows every object of an image, and not only those of one class."""

    def labels(self, image_id: str) -> NDArray[np.uint16]:
        """uint16 [H, W]: class id + 1 of what is seen at a pixel, 0 for none.

        Raises:
            InputError: there is no such image, or its file cannot be read.
        """
        ...


def labelled(dataset: Dataset) -> Labelled:
    """The dataset as one that knows every object.

    Raises:
        InputError: it does not.
    """
    if not isinstance(dataset, Labelled):
        raise InputError(f"{dataset.name} has masks of single classes only; loss.dense needs rendered scenes.")
    return dataset


def check_class(name: str, class_names: Mapping[int, str], class_id: int) -> str:
    """Return the name of a class of the dataset called `name`.

    Raises:
        InputError: the dataset has no such class.
    """
    if class_id not in class_names:
        raise InputError(f"Dataset {name} has no class {class_id}; its classes are 0 to {len(class_names) - 1}.")
    return class_names[class_id]


def open_dataset(spec: str, *, cache: Path | None = None, progress: Progress = lambda done, total: None) -> Dataset:
    """Open the dataset that `spec` names.

    * `procedural` or `procedural:SEED`: rendered scenes of 24 named classes, no files needed.
    * `invented` or `invented:SEED`: rendered scenes of 800 invented classes, to learn from.
    * `pascal:VOC_FOLDER[:MASKS_FOLDER][@train|@val]`: PASCAL-5i from the folder VOC2012 and a folder of PNG masks
      (SegmentationClassAug) or SBD's folder (.mat masks); see `PascalDataset` for the defaults.  The split is `val`
      where none is given; a path that holds an `@` behind its last slash needs one.
    * `coco:ANNOTATIONS.json[:IMAGES_FOLDER]`: COCO annotations; the images folder defaults to `images` beside
      the JSON file, else to the file's own folder.
    * `folder:PATH`: `PATH/<class>/images/` and `PATH/<class>/masks/`.

    Args:
        spec: the text above.
        cache: folder for image lists that take long to make; default: beside the data.
        progress: called with (masks read, masks in all) while such lists are made.

    Raises:
        InputError: the kind is unknown, the rest does not fit it, or the files cannot be used.
    """
    kind, colon, rest = spec.partition(":")
    # A bare path is what people type first, so it gets the exact text to type instead
    if spec and kind not in KINDS and Path(spec).exists():
        voc = Path(spec, "ImageSets").is_dir()
        guess = "pascal" if voc else "folder" if Path(spec).is_dir() else "coco"
        raise InputError(f"Dataset '{spec}' names no kind; did you mean '{guess}:{spec}'? Use {FORMS}.")
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
    from ntre_deploy.data.coco import CocoDataset

    # Split behind ".json" and not at the first colon: Windows paths hold one too
    head, found, images = rest.rpartition(".json:")
    if found and images:
        return CocoDataset(Path(head + ".json"), Path(images), cache=cache, progress=progress)
    return CocoDataset(Path(rest.removesuffix(":")), cache=cache, progress=progress)


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

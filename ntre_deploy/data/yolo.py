"""YOLO's segmentation text: one file a photo, a class number and a polygon in fractions of the photo on each line."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ntre_deploy.data._segmentation import Fractions, mask_api
from ntre_deploy.data._yolofiles import NAMED, find_photos, label_file, names_near, read_lines
from ntre_deploy.data.annotated import AnnotatedDataset, folder_key
from ntre_deploy.data.annotations import BOX, EMPTY, FEW, Annotations
from ntre_deploy.data.dataset import Progress
from ntre_deploy.errors import InputError
from ntre_deploy.files import reading

# numbers behind the class of a box, and of a polygon that shows a pixel
_BOX, _TRIANGLE = 4, 6
# how far outside the photo, in fractions of it, a point may lie: what tools draw over its edge
_OUTSIDE = 0.5


class YoloDataset(AnnotatedDataset):
    """Photos with label files as Ultralytics' `segment` task reads them; classes are the names of its YAML file.

    An image id is the photo's path below the data's folder without its ending.  The label file of `.../images/a.jpg` is
    `.../labels/a.txt`, or `a.txt` beside the photo where no folder is called `images`; a photo without one shows no
    class.  Lines of a box alone are skipped.

    Args:
        source: a YAML file with `names`, `path` and `train`, `val` or `test`; or a folder, where the YAML file may be
            in it.  In a folder without one, all photos are taken, and `classes.txt` names the classes.
        split: `train`, `val`, `test` or `all`; None where the YAML file has one alone.
        cache: folder for the file with the image lists.  Default: the data's own, from `WORTH_KEEPING` masks on; where
            that cannot be written, nothing is kept.
        progress: called with (masks measured, masks in all) while the lists are built.
        strict: refuse annotations without a mask, which are skipped else, and counted in an `NtreWarning`.

    Raises:
        InputError: a file is absent or cannot be read, the split can mean several, photos lie outside the folder or
            share a label file, a line is none of YOLO's, or PyYAML or pycocotools is missing.
    """

    def __init__(
        self,
        source: str | Path,
        split: str | None = None,
        *,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,
        strict: bool = False,
    ) -> None:
        mask_api()
        photos = find_photos(Path(source), split)
        texts: dict[str, Path] = {}
        digest = hashlib.sha256(repr(photos.names).encode("utf-8", "surrogateescape"))
        for path in photos.files:
            with reading(path, "Photo"):
                found = path.stat()
            # the masks follow from its size in pixels too
            name = path.relative_to(photos.root)
            digest.update(f"\n{name} {found.st_size} {found.st_mtime_ns} ".encode("utf-8", "surrogateescape"))
            image_id = name.with_suffix("").as_posix()
            if image_id in texts:
                raise InputError(f"{path} and another photo share the label file {label_file(path)}; rename one.")
            texts[image_id] = label_file(path)
        lines = {image_id: read_lines(path) if path.is_file() else [] for image_id, path in texts.items()}
        for content in lines.values():
            digest.update(hashlib.sha256("\n".join(content).encode("utf-8")).digest())
        annotations = _annotations(Path(source), photos.names, texts, lines)
        for image_id, path in zip(texts, photos.files, strict=True):
            annotations.add_image(str(path), image_id, path.relative_to(photos.root).as_posix(), None)
        kept = photos.root / f".ntre-yolo-{folder_key(Path(source))}-{photos.split}.json"
        title = f"yolo:{photos.root.resolve().name}" + (f"@{photos.split}" if photos.split else "")
        super().__init__(
            title, annotations, photos.root, kept, digest.hexdigest(), cache=cache, progress=progress, strict=strict
        )


def read_yolo_labels(file: Path) -> Annotations:
    """What one label file says; its image has the id of the file's name without its ending, and no size.

    Classes are called by the YAML file or `classes.txt` that is nearest to the file, else by their numbers.

    Raises:
        InputError: it is absent, no text, or a line is none of YOLO's.
    """
    if not file.is_file():
        raise InputError(f"Label file {file} does not exist or is not a file.")
    found = _annotations(file, names_near(file), {file.stem: file}, {file.stem: read_lines(file)}, single=True)
    found.add_image(str(file), file.stem, file.name, None)
    return found


def _annotations(
    source: Path,
    names: Mapping[int, str] | None,
    files: Mapping[str, Path],
    lines: Mapping[str, Iterable[str]],
    *,
    single: bool = False,
) -> Annotations:
    shapes: list[tuple[int, str, Fractions]] = []
    skipped: list[str] = []
    largest = -1
    for image_id, content in lines.items():
        for number, line in enumerate(content, start=1):
            if not (words := line.split()):
                continue
            where = f"{files[image_id]}, line {number}"
            class_id = _class(where, words[0])
            if names is not None and class_id not in names:
                raise InputError(f"{where}: class {class_id} has no name; there are {len(names)}: 0 to {max(names)}.")
            largest = max(largest, class_id)
            shape = _polygon(where, words[1:])
            if isinstance(shape, str):
                skipped.append(shape)
            else:
                shapes.append((class_id, image_id, shape))
    if names is None and largest < 0:
        raise InputError(f"{source} has no labels and no file that names classes ({', '.join(NAMED)}).")
    top = largest if names is None else max(names)
    titles = [str(i) if names is None else names.get(i, str(i)) for i in range(top + 1)]
    found = Annotations(source, titles, single=single)
    for reason in skipped:
        found.skip(reason)
    for class_id, image_id, shape in shapes:
        found.add(class_id, image_id, shape)
    return found


# numbers of classes lie without gaps, and no data set has so many
_CLASSES = 100_000


def _class(where: str, word: str) -> int:
    try:
        value = float(word)  # some tools write 0.0
        if value.is_integer() and 0 <= value < _CLASSES:
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{where}: {word[:40]!r} is no class number; YOLO's lines are: class x1 y1 x2 y2 x3 y3 ...")


def _polygon(where: str, words: list[str]) -> Fractions | str:
    """The polygon of a line, or why it shows no pixel."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{where} holds something else than numbers: {str(error)[:80]}.") from error
    if not all(math.isfinite(value) and -_OUTSIDE <= value <= 1 + _OUTSIDE for value in values):
        raise InputError(f"{where}: coordinates are fractions of the photo's width and height, from 0 to 1.")
    if not values:
        return EMPTY
    if len(values) == _BOX:
        return BOX
    if len(values) % 2:
        raise InputError(f"{where} has {len(values)} numbers behind its class; a polygon has two for each point.")
    return FEW if len(values) < _TRIANGLE else Fractions(np.array(values).reshape(-1, 2))

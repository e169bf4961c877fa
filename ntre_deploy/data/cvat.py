"""CVAT's XML ("CVAT for images 1.1"): polygons, ellipses and masks of many photos in one file."""

import hashlib
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ntre_deploy.data._segmentation import RowRuns, Segmentation, ellipse, mask_api
from ntre_deploy.data.annotated import AnnotatedDataset, images_folder
from ntre_deploy.data.annotations import BOX, FEW, LINE, POINT, Annotations
from ntre_deploy.data.dataset import Progress
from ntre_deploy.errors import InputError

_CHUNK = 1 << 20
# the deepest that CVAT writes has eight
_DEEPEST = 50
# numbers of a polygon that shows a pixel
_TRIANGLE = 6
# shapes without a mask
_SKIPPED = {"box": BOX, "cuboid": BOX, "polyline": LINE, "points": POINT, "skeleton": POINT}
_TAKEN = ("polygon", "mask", "ellipse")
_LABEL = ["labels", "label", "name"]


class CvatDataset(AnnotatedDataset):
    """Images and classes of an annotation file of CVAT; classes are its labels, in their order there.

    An image id is its name in the file, with the subset before it where the file has several of that name.  Boxes,
    lines and points are no masks and are skipped.

    Args:
        annotations: the XML file.
        images: folder of the photos; default `images` beside the file, else the file's own folder.
        cache: folder for the file with the image lists.  Default: the annotation file's, from `WORTH_KEEPING` masks
            on; where that cannot be written, nothing is kept.
        progress: called with (masks measured, masks in all) while the lists are built.
        strict: refuse annotations without a mask, which are skipped else, and counted in an `NtreWarning`.

    Raises:
        InputError: the file is absent, no XML of CVAT for images, names files outside the folder or one file twice, a
            shape has another label than those listed or coordinates that are none, or pycocotools is missing.
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
        folder = images_folder("cvat", file, images)
        found, sha256 = read_cvat(file, folder)
        kept = file.with_name(f"ntre-cvat-{file.stem}-{sha256[:8]}.json")
        name = f"cvat:{file.stem}"
        super().__init__(name, found, folder, kept, sha256, cache=cache, progress=progress, strict=strict)


def read_cvat(file: Path, folder: Path) -> tuple[Annotations, str]:
    """What a file of CVAT says, and its SHA-256.

    Args:
        folder: of the photos: a project's lie in folders of its subsets there.

    Raises:
        InputError: as `CvatDataset`.
    """
    if not file.is_file():
        raise InputError(f"Annotation file {file} does not exist or is not a file.")
    reader, digest = _Reader(file), hashlib.sha256()
    parser = ElementTree.XMLParser(target=reader)
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                parser.feed(chunk)
        parser.close()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise InputError(f"{file} is not XML that can be read: {error}.") from error
    return _annotations(file, folder, reader), digest.hexdigest()


class _Reader:
    """Takes what is wanted while the file is parsed; no tree is kept."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.images: list[dict[str, str]] = []
        # (number of the image, tag, attributes)
        self.shapes: list[tuple[int, str, dict[str, str]]] = []
        self.labels: list[str] = []
        self._path: list[str] = []
        self._text = ""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        # entities, which can unfold to gigabytes or name other files, are declared in one
        raise InputError(f"{self.file} has a document type; CVAT writes none, so it is not read.")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "annotations":
            raise InputError(f"{self.file} is XML of something else: <{tag[:40]}> where CVAT has <annotations>.")
        if len(self._path) >= _DEEPEST:
            raise InputError(f"{self.file} is nested deeper than {_DEEPEST} elements; CVAT writes no such file.")
        if tag == "track" and len(self._path) == 1:
            raise InputError(f"{self.file} is 'CVAT for video'; export it as 'CVAT for images 1.1'.")
        if tag == "image" and len(self._path) == 1:
            self.images.append(dict(attributes))
        elif self._path[1:] == ["image"] and (tag in _TAKEN or tag in _SKIPPED):
            self.shapes.append((len(self.images) - 1, tag, dict(attributes)))
        self._path.append(tag)
        self._text = ""

    def data(self, text: str) -> None:
        if self._path[-3:] == _LABEL:
            self._text += text

    def end(self, tag: str) -> None:
        # a label's own name, and not one of its attributes
        if self._path[-3:] == _LABEL and self._text.strip():
            self.labels.append(self._text.strip())
        self._path.pop()

    def close(self) -> None:
        pass


def _annotations(file: Path, folder: Path, reader: _Reader) -> Annotations:
    if not reader.images:
        raise InputError(f"{file} has no images; export it as 'CVAT for images 1.1'.")
    used = [_text(file, index, shape, "label") for index, _, shape in reader.shapes]
    # other tools leave the list of labels out
    names = list(dict.fromkeys(reader.labels)) or sorted(set(used))
    found = Annotations(file, names)
    ranks = {name: rank for rank, name in enumerate(names)}
    ids = []
    for index, image in enumerate(reader.images):
        name = _text(file, index, image, "name")
        subset = image.get("subset", "")
        inner = f"{subset}/{name}"
        path = inner if subset and (folder / inner.replace("\\", "/")).is_file() else name
        ids.append(path)
        size = (_whole(file, index, image, "height"), _whole(file, index, image, "width"))
        found.add_image(f"{file}: image {index}", path, path, size)
    for (index, tag, shape), label in zip(reader.shapes, used, strict=True):
        if label not in ranks:
            raise InputError(f"{file}: image {index} has a {tag} of the label '{label}', which is not listed.")
        if tag in _SKIPPED:
            found.skip(_SKIPPED[tag])
            continue
        segmentation = _segmentation(file, index, tag, shape)
        if segmentation is None:
            found.skip(FEW)
        else:
            found.add(ranks[label], ids[index], segmentation)
    return found


def _segmentation(file: Path, index: int, tag: str, shape: dict[str, str]) -> Segmentation | None:
    """A shape as a segmentation; None for a polygon of fewer than three points."""
    if tag == "ellipse":
        cx, cy, rx, ry = (_number(file, index, shape, key) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(
            cx, cy, rx, ry, _number(file, index, shape | {"rotation": shape.get("rotation", "0")}, "rotation")
        )
    if tag == "mask":
        left, top, width, height = (_whole(file, index, shape, key) for key in ("left", "top", "width", "height"))
        counts = [_as(int, file, index, "rle", text) for text in _text(file, index, shape, "rle").split(",")]
        return RowRuns(left, top, width, height, counts)
    points = [p.split(",") for p in _text(file, index, shape, "points").split(";")]
    if any(len(point) != 2 for point in points):
        raise InputError(f"{file}: image {index} has a polygon whose points are not x,y;x,y;...")
    polygon = [_as(float, file, index, "points", value) for point in points for value in point]
    return [polygon] if len(polygon) >= _TRIANGLE else None


def _text(file: Path, index: int, attributes: dict[str, str], key: str) -> str:
    if not (text := attributes.get(key, "")):
        raise InputError(f"{file}: image {index} or a shape of it has no '{key}'.")
    return text


def _number(file: Path, index: int, attributes: dict[str, str], key: str) -> float:
    return float(_as(float, file, index, key, _text(file, index, attributes, key)))


def _whole(file: Path, index: int, attributes: dict[str, str], key: str) -> int:
    return int(_as(int, file, index, key, _text(file, index, attributes, key)))


def _as(kind: type, file: Path, index: int, key: str, text: str) -> Any:
    try:
        value = kind(text)
        # far beyond every image, and what comes later can count with it
        if math.isfinite(value) and abs(value) < 1e9:
            return value
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{file}: image {index} has {text.strip()[:40]!r} in '{key}'; expected a number.")

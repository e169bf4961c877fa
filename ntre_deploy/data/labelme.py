"""LabelMe's JSON files: the shapes that somebody drew on one photo, one file beside each."""

import base64
import binascii
import hashlib
import io
import math
import posixpath
import warnings
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from ntre_deploy.data._segmentation import Segmentation, ellipse, mask_api, row_runs
from ntre_deploy.data.annotated import AnnotatedDataset, folder_key
from ntre_deploy.data.annotations import EMPTY, FEW, LINE, POINT, Annotations, inside, load_json
from ntre_deploy.data.dataset import Progress
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import MAX_PIXELS

# points that a shape needs at least
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
# shapes without an area
_THIN = {"line": LINE, "linestrip": LINE, "point": POINT, "points": POINT}
_SHOWN = 3


class LabelmeDataset(AnnotatedDataset):
    """A folder, and the folders in it, of LabelMe's files with their photos; classes are the labels, sorted.

    An image id is the JSON file's path below the folder without its ending.  Lines and points have no area and are
    skipped; JSON files of something else are left alone, and named.

    Args:
        folder: holds JSON files and photos.  A photo is searched where its file says, then beside that file; it must be
            in the folder.
        cache: folder for the file with the image lists.  Default: `folder`, from `WORTH_KEEPING` masks on; where that
            cannot be written, nothing is kept.
        progress: called with (masks measured, masks in all) while the lists are built.
        strict: refuse shapes without an area, which are skipped else, and counted in an `NtreWarning`.

    Raises:
        InputError: the folder is absent or has no LabelMe file, a file is no JSON or says no size, two belong to one
            photo, a photo lies outside, a shape has coordinates that are none, or pycocotools is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        cache: str | Path | None = None,
        progress: Progress = lambda done, total: None,
        strict: bool = False,
    ) -> None:
        mask_api()
        root = Path(folder)
        contents, digest = _contents(root, strict)
        found = labelme_annotations(root, contents)
        kept = root / f".ntre-labelme-{folder_key(root)}.json"
        name = f"labelme:{root.resolve().name}"
        super().__init__(name, found, root, kept, digest, cache=cache, progress=progress, strict=strict)


def is_labelme(content: object) -> bool:
    """Whether parsed JSON is a file of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def labelme_annotations(source: Path, contents: dict[Path, dict[str, Any]], *, single: bool = False) -> Annotations:
    """What LabelMe's files say together.

    Args:
        source: their folder, or the one file.
        contents: file -> parsed JSON for which `is_labelme` holds.
        single: there is one file, and its photo may have any name.

    Raises:
        InputError: as `LabelmeDataset`.
    """
    shapes = [
        (path, number, shape) for path, content in contents.items() for number, shape in enumerate(content["shapes"])
    ]
    labels = sorted({_label(path, number, shape) for path, number, shape in shapes})
    if not labels:
        raise InputError(f"{source} has no shapes; draw some with LabelMe.")
    found = Annotations(source, labels, single=single)
    photos: dict[str, Path] = {}
    for path, content in contents.items():
        image_id = path.stem if single else path.relative_to(source).with_suffix("").as_posix()
        photo = path.name if single else _photo(source, path, content)
        if photo in photos:
            raise InputError(f"{path} and {photos[photo]} belong to the same photo, {photo}; remove one of them.")
        photos[photo] = path
        found.add_image(str(path), image_id, photo, _size(path, content))
        for number, shape in enumerate(content["shapes"]):
            segmentation = _segmentation(path, number, shape, found.entries[image_id].size or (0, 0))
            if isinstance(segmentation, str):
                found.skip(segmentation)
            else:
                found.add(labels.index(shape["label"]), image_id, segmentation)
    return found


def _contents(root: Path, strict: bool) -> tuple[dict[Path, dict[str, Any]], str]:
    """LabelMe's files in a folder, parsed, and a digest over all of them."""
    if not root.is_dir():
        raise InputError(f"Dataset folder {root} does not exist or is not a folder.")
    contents: dict[Path, dict[str, Any]] = {}
    others: list[str] = []
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.json")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        content, text = load_json(path, "Annotation file")
        if not is_labelme(content):
            others.append(path.name)
            continue
        content.pop("imageData", None)  # the photo once more, in base64
        contents[path] = content
        name = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")
        digest.update(name + b"\n" + hashlib.sha256(text).digest())
    if not contents:
        raise InputError(f"Dataset folder {root} holds no JSON file of LabelMe.")
    if others:
        more = ", ..." if len(others) > _SHOWN else ""
        told = f"{root}: {len(others):,} JSON files are not LabelMe's: {', '.join(others[:_SHOWN])}{more}"
        if strict:
            raise InputError(f"{told}; move them elsewhere, or leave out --strict.")
        warnings.warn(f"{told}; --strict stops", NtreWarning, stacklevel=3)
    return contents, digest.hexdigest()


def _label(path: Path, number: int, shape: Any) -> str:
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.isprintable() or not label:
        raise InputError(f"{path}: shape {number} has no label.")
    return label


def _size(path: Path, content: dict[str, Any]) -> tuple[int, int]:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise InputError(f"{path} says no size of its image (imageHeight, imageWidth); save it with LabelMe again.")
    return height, width


def _photo(root: Path, path: Path, content: dict[str, Any]) -> str:
    """Name of a file's photo below the folder; the path in it is often one of another machine."""
    told = content.get("imagePath")
    if not isinstance(told, str) or not told or not told.isprintable():
        raise InputError(f"{path} names no photo (imagePath); save it with LabelMe again.")
    plain = PureWindowsPath(told)
    below = path.parent.relative_to(root).as_posix()
    beside = posixpath.normpath(posixpath.join(below, plain.name))
    # `..` is what LabelMe writes where JSON files have a folder of their own
    named = posixpath.normpath(posixpath.join(below, plain.as_posix()))
    possible = [name for name in (named, beside) if inside(name)]
    if found := [name for name in possible if (root / name).is_file()]:
        return found[0]
    if inside(named):
        return named  # it is missed when it is wanted
    raise InputError(f"{path}: its photo {told!r} is neither in {root} nor beside the file; put it there.")


def _segmentation(path: Path, number: int, shape: dict[str, Any], size: tuple[int, int]) -> Segmentation | str:
    """A shape as a segmentation, or why it shows no pixel."""
    kind, points = str(shape.get("shape_type") or "polygon"), shape.get("points")
    if kind in _THIN:
        return _THIN[kind]
    if kind not in _POINTS:
        raise InputError(f"{path}: shape {number} is a {kind[:40]!r}; {', '.join(_POINTS)} can be read.")
    reach = 2 * max(size)
    if not isinstance(points, list) or not all(_is_point(p, reach) for p in points):
        raise InputError(f"{path}: shape {number} must have points [x, y], in or near the image.")
    if len(points) < _POINTS[kind]:
        return FEW if points else EMPTY
    corners = np.array(points, np.float64)
    if kind == "circle":
        # its middle, and a point on it
        (x, y), (on_x, on_y) = corners[:2].tolist()
        radius = math.hypot(on_x - x, on_y - y)
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        return _patch(path, number, shape, *np.floor(corners[0]).astype(int).tolist())
    if kind == "rectangle":
        (x1, y1), (x2, y2) = corners[:2].tolist()
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return [corners.ravel().tolist()]


def _patch(path: Path, number: int, shape: dict[str, Any], left: int, top: int) -> Segmentation:
    """The pixels of a shape that LabelMe keeps as a picture of its own."""
    try:
        data = base64.b64decode(shape.get("mask") or "", validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                if not 0 < image.width * image.height <= MAX_PIXELS:
                    raise ValueError("its size")
                mask = np.asarray(image.convert("L")) != 0
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the mask of shape {number} is no PNG in base64.") from error
    return row_runs(left, top, mask) if mask.any() else EMPTY


def _is_point(point: object, reach: int) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    return all(type(value) in (int, float) and -reach <= value <= reach for value in point)

"""A result as one file, chosen by its ending."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.runtime.overlay import palette

if TYPE_CHECKING:
    from ntre_deploy.runtime.results.result import Result

_QUALITY = 90


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: object) -> None:
    """Write JSON on one line, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False))


def _write_jpeg(path: Path, result: "Result") -> None:
    with atomic_file(path) as temporary:
        Image.fromarray(result.plot()).save(temporary, format="JPEG", quality=_QUALITY, subsampling=0)


# the longer endings first: of several that fit, one counts
_BY_ENDING: dict[str, Callable[["Result", Path], None]] = {
    ".overlay.png": lambda result, path: write_png(path, result.plot()),
    ".coco.json": lambda result, path: write_json(path, result.to_coco()),
    ".labelme.json": lambda result, path: write_json(path, result.to_labelme()),
    ".label-studio.json": lambda result, path: write_json(path, [result.to_label_studio()]),
    ".png": lambda result, path: write_png(path, result.labels, palette(len(result.names))),
    ".jpg": lambda result, path: _write_jpeg(path, result),
    ".jpeg": lambda result, path: _write_jpeg(path, result),
    ".json": lambda result, path: write_json(path, result.to_polygons()),
    ".geojson": lambda result, path: write_json(path, result.to_geojson()),
    ".txt": lambda result, path: write_text(path, result.to_yolo()),
}


def save(result: "Result", path: Path) -> None:
    """Write one file; see `Result.save`.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    name = path.name.lower()
    for ending, write in _BY_ENDING.items():
        if name.endswith(ending):
            write(result, path)
            return
    raise InputError(f"{path} has an ending that no result is written with; take {', '.join(_BY_ENDING)}.")

"""Results in the formats of other tools: files for each image, and those for all images together."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ntre_deploy.runtime.results.formats import labelling_config, yolo_names
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.results.saving import write_json, write_text
from ntre_deploy.segment.coco import CocoResults
from ntre_deploy.segment.outputs import COCO, LABEL_STUDIO, LABEL_STUDIO_CONFIG, YOLO_DATA, Kinds, shape_output

# kind -> how one image's file is written; `seen` is the image as seen from that file
_WRITE: dict[str, Callable[[Result, Path, str], None]] = {
    "labelme": lambda result, path, seen: write_json(path, result.to_labelme(seen)),
    "yolo": lambda result, path, seen: write_text(path, result.to_yolo()),
    "geojson": lambda result, path, seen: write_json(path, result.to_geojson()),
    "polygons": lambda result, path, seen: write_json(path, result.to_polygons()),
}
# where Label Studio looks for files of the folder that it was given as its document root
_LOCAL_FILES = "/data/local-files/?d="


class ResultFiles:
    """Writes results as they come, and gathers what goes into one file.

    Args:
        out: folder for results.
        names: of the classes.
        kinds: what to write.
    """

    def __init__(self, out: Path, names: Sequence[str], kinds: Kinds) -> None:
        self._out = out
        self._names = list(names)
        self._kinds = kinds
        self._coco = CocoResults(names, kinds.instances)
        # as text, which takes a tenth of the memory
        self._tasks: list[str] = []

    def write(self, result: Result, place: Path, source: Path | None = None) -> dict[str, str]:
        """Write one image's own files; several threads may do so.

        Args:
            place: where its label map is, or would be, written.
            source: file of a photo; None for a frame of a video.

        Returns:
            kind -> file, of those that were written.

        Raises:
            InputError: one cannot be written.
        """
        written = {}
        for kind in sorted(self._kinds.shapes):
            path = shape_output(self._out, kind, place)
            _WRITE[kind](result, path, place.name if source is None else _relative(source, path.parent))
            written[kind] = str(path)
        return written

    def gather(self, result: Result, name: str, source: Path | None = None, **more: Any) -> None:
        """Remember what goes into the files of all images, in their order; one thread does so.

        Args:
            name: of the image in those files.
            source: file of a photo; None for a frame of a video.
            more: for the image's entry in COCO.
        """
        if "coco" in self._kinds.together:
            self._coco.add(name, result, **more)
        if "label-studio" in self._kinds.together:
            address = quote(name if source is None else _relative(source, Path()))
            task = result.to_label_studio(_LOCAL_FILES + address)
            self._tasks.append(json.dumps(task, separators=(",", ":"), ensure_ascii=False))

    def finish(self) -> None:
        """Write the files of all images together.

        Raises:
            InputError: one cannot be written.
        """
        if "coco" in self._kinds.together:
            self._coco.write(self._out / COCO)
        if "label-studio" in self._kinds.together:
            write_text(self._out / LABEL_STUDIO, "[" + ",\n".join(self._tasks) + "]\n")
            write_text(self._out / LABEL_STUDIO_CONFIG, labelling_config(self._names))
        if "yolo" in self._kinds.shapes:
            write_text(self._out / YOLO_DATA, f"path: .\n{yolo_names(self._names)}")


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()

"""`Result`: what was found in one image, with everything but the label map made when it is asked for."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.runtime.labels import class_scores, margin_map, probability_map
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.results import drawing, formats, saving
from ntre_deploy.runtime.results.instances import Instance, find_instances
from ntre_deploy.runtime.rle import encode_rle, outline_boxes

if TYPE_CHECKING:
    from supervision import Detections

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# classes that the one line of `repr` names
_SHOWN = 5


class Result:
    """What was found in one image; `Segmenter.segment_result` makes it.

    It keeps the image, the label map and the network's logits as they are (at feature resolution); scores, margins,
    instances and polygons are computed when they are asked for first, and instances and scores kept.

    Attributes:
        labels: uint8 [H, W] at the image's own size: 0 background, n the n-th class.
        names: of the classes.
        image: uint8 RGB [H, W, 3], which was segmented; None where there is none.
        logits: float32 [N, 2, h, w] at feature resolution, calibrated as in `Segmenter.segment`; None for a label map
            from elsewhere.
        path: of the image's file; None where it came as pixels.

    Args:
        box: geometry that the logits belong to.
        scores: where they are known already; see `scores`.
    """

    labels: Pixels
    names: tuple[str, ...]

    def __init__(
        self,
        labels: Pixels,
        names: Sequence[str],
        image: Pixels | None = None,
        logits: Float | None = None,
        box: Letterbox | None = None,
        path: Path | None = None,
        scores: tuple[float, ...] | None = None,
    ) -> None:
        self.labels = labels
        self.names = tuple(names)
        self.image = image
        self.logits = logits
        self.path = path
        self._box = box
        if scores is not None:
            self.scores = scores

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def pixels(self) -> Pixels:
        """The image, uint8 RGB [H, W, 3].

        Raises:
            InputError: there is none.
        """
        if self.image is None:
            raise InputError("This label map came without its image; `Segmenter.segment_result` keeps it.")
        return self.image

    @property
    def has_scores(self) -> bool:
        """Whether there are logits, of which scores and margins are made."""
        return self.logits is not None

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """For each class the mean probability over its pixels, in [0, 1]; 0 without any; see `segment_scored`.

        Raises:
            InputError: the label map came without logits.
        """
        return class_scores(self.labels, *self._found())

    @cached_property
    def areas(self) -> tuple[int, ...]:
        """Number of pixels of each class."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names) + 1)
        return tuple(counts[1 : len(self.names) + 1].tolist())

    @cached_property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """x, y, width, height of the box around all pixels of each class; zeros where it has none."""
        return outline_boxes(self.labels, len(self.names))

    @cached_property
    def probabilities(self) -> Float:
        """float32 [H, W]: how clear each pixel's label is, in [0, 1]: its share in the softmax of all margins and 0.

        Raises:
            InputError: the label map came without logits.
        """
        return probability_map(*self._found())

    def number(self, name: str | int) -> int:
        """The number of a class in `labels`, from 1 on; it may be given as such a number too.

        Raises:
            InputError: there is no such class.
        """
        if isinstance(name, str):
            if name in self.names:
                return self.names.index(name) + 1
            raise InputError(
                f"There is no class '{name}'; there is {', '.join(self.names)}.{did_you_mean(name, self.names)}"
            )
        if not 1 <= name <= len(self.names):
            raise InputError(f"There is no class {name}; classes are 1 to {len(self.names)}.")
        return int(name)

    def mask(self, name: str | int) -> NDArray[np.bool_]:
        """bool [H, W]: the pixels of one class, by its name or number.

        Raises:
            InputError: there is no such class.
        """
        return np.asarray(self.labels == self.number(name))

    def margin(self, name: str | int) -> Float:
        """float32 [H, W]: logits of one class minus those of its background at the image's own size, above 0 inside.

        Raises:
            InputError: there is no such class, or the label map came without logits.
        """
        logits, box = self._found()
        return margin_map(logits[self.number(name) - 1], box)

    def instances(self, min_area: int = 1) -> list[Instance]:
        """The regions of all classes that are connected by edges of pixels; by class, and the largest first.

        Args:
            min_area: leave smaller ones out, in pixels.
        """
        return [instance for instance in self._instances if instance.area >= min_area]

    def rle(self, name: str | int) -> dict[str, Any]:
        """COCO's run-length code of one class; see `encode_rle`.

        Raises:
            InputError: there is no such class.
        """
        label = self.number(name)
        x, y, width, height = self.boxes[label - 1]
        return encode_rle(self.labels[y : y + height, x : x + width] == label, self.size, x, y)

    def to_polygons(self, min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
        """Polygons with holes of each class, for `json.dump`; see `ntre_deploy.runtime.results.formats.polygons`."""
        return formats.polygons(self, min_area, tolerance)

    def to_coco(self, file_name: str | None = None, *, instances: bool = True, min_area: int = 1) -> dict[str, Any]:
        """A COCO dataset of this image, for `json.dump`.

        Args:
            file_name: of the image; None takes that of `path`.
            instances: one annotation for each connected instance; else one for each class.
            min_area: leave smaller ones out, in pixels.
        """
        return formats.coco(self, file_name, instances=instances, min_area=min_area)

    def to_labelme(self, image_path: str | None = None, min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
        """A file of LabelMe, for `json.dump`: one polygon for each instance, holes joined to its outer ring.

        Args:
            image_path: of the image, as seen from the file; None takes the name of `path`.
            min_area: leave smaller ones out, in pixels.
            tolerance: leave out corners of polygons up to that many pixels away; 0 gives the same mask back.
        """
        return formats.labelme(self, image_path, min_area, tolerance)

    def to_yolo(self, min_area: int = 1, tolerance: float = 0) -> str:
        """Lines of a YOLO segmentation file: class from 0 on, then x and y of each corner as shares of the image.

        YOLO knows no holes: they are joined to the outer ring by a cut of no width.  Arguments as `to_labelme`.
        """
        return formats.yolo(self, min_area, tolerance)

    def to_geojson(self, min_area: int = 1, tolerance: float = 0) -> dict[str, Any]:
        """A GeoJSON FeatureCollection in pixels of the image (y downwards), one Polygon for each instance.

        Arguments as `to_labelme`.
        """
        return formats.geojson(self, min_area, tolerance)

    def to_label_studio(self, image: str | None = None, min_area: int = 1) -> dict[str, Any]:
        """A task of Label Studio with one brush stroke for each instance as its prediction.

        Args:
            image: address of the image as Label Studio finds it; None takes the name of `path`.
            min_area: leave smaller ones out, in pixels.
        """
        return formats.label_studio(self, image, min_area)

    def to_supervision(self, min_area: int = 1) -> "Detections":
        """`supervision.Detections`, one for each instance; class ids are places in `names`, from 0 on.

        Args:
            min_area: leave smaller ones out, in pixels.

        Raises:
            EngineError: supervision is not installed.
        """
        return formats.supervision(self, min_area)

    def plot(self, *, opacity: float = 0.5, names: bool = True) -> Pixels:
        """The image with the classes drawn in, uint8 RGB [H, W, 3]; on black where there is no image.

        Args:
            opacity: of the colours, 0 to 1.
            names: write the classes' names above their largest regions.
        """
        return drawing.plot(self, opacity, names)

    def save(self, path: str | Path) -> None:
        """Write one file, whole or not at all; its ending says what.

        `.png` the label map with a palette, `.overlay.png` and `.jpg` the picture of `plot`, `.json` the polygons,
        `.coco.json`, `.labelme.json`, `.label-studio.json`, `.geojson`, and `.txt` the lines of YOLO.

        Raises:
            InputError: another ending, or the file cannot be written.
        """
        saving.save(self, Path(path))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return drawing.preview(self)

    def __repr__(self) -> str:
        height, width = self.size
        shown = [
            f"{name} {area / max(self.labels.size, 1):.1%}"
            for name, area in zip(self.names[:_SHOWN], self.areas, strict=False)
        ]
        more = f", {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return f"Result({height} x {width} pixels: {', '.join(shown)}{more})"

    @cached_property
    def _instances(self) -> list[Instance]:
        return find_instances(self.labels, self.names, self.boxes, self._clear)

    def _clear(self) -> Float | None:
        return self.probabilities if self.has_scores else None

    def _found(self) -> tuple[Float, Letterbox]:
        if self.logits is None or self._box is None:
            raise InputError("This label map came without logits; `Segmenter.segment_result` keeps them.")
        return self.logits, self._box

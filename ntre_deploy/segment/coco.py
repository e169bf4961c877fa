"""Results as a COCO annotation file: one run-length code for each class in each image, or for each instance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntre_deploy.runtime.results.formats import coco_annotations, coco_dataset, coco_image
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.results.saving import write_json


class CocoResults:
    """Gathers results; `write` makes the file.

    It is a COCO dataset: `pycocotools.coco.COCO` and `--dataset coco:FILE:IMAGES` read it.

    Args:
        names: of the classes; category n is label n.
        instances: one annotation for each connected instance, in place of one for each class.
    """

    def __init__(self, names: Sequence[str], instances: bool = False) -> None:
        self._names = list(names)
        self._instances = instances
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, result: Result, **more: Any) -> None:
        """Add one image with its scores; `more` goes into its entry."""
        number, first = len(self._images) + 1, len(self._annotations) + 1
        self._images.append(coco_image(result, file_name, number) | more)
        self._annotations += coco_annotations(result, instances=self._instances, image_id=number, first_id=first)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        write_json(path, coco_dataset(self._images, self._annotations, self._names))

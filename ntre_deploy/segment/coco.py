"""Results as a COCO annotation file: one run-length code for each class in each image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.rle import encode_rle, outline_box


class CocoResults:
    """Gathers label maps; `write` makes the file.

    It is a COCO dataset: `pycocotools.coco.COCO` and `--dataset coco:FILE:IMAGES` read it.

    Args:
        names: of the classes; category n is label n.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, labels: NDArray[np.uint8], scores: Sequence[float], **more: Any) -> None:
        """Add one image: labels uint8 [H, W], 0 is background, and each class's score; `more` goes into its entry."""
        height, width = labels.shape
        image = {"id": len(self._images) + 1, "file_name": file_name, "width": width, "height": height}
        self._images.append(image | more)
        for category in range(1, len(self._names) + 1):
            mask = labels == category
            area = int(mask.sum())
            if area:
                self._annotations.append(
                    {
                        "id": len(self._annotations) + 1,
                        "image_id": image["id"],
                        "category_id": category,
                        "segmentation": encode_rle(mask),
                        "area": area,
                        "score": round(scores[category - 1], 6),
                        "bbox": outline_box(mask),
                        "iscrowd": 0,
                    }
                )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        categories = [{"id": number, "name": name} for number, name in enumerate(self._names, 1)]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

"""Fixtures of the data tests."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.runtime.imagefile import write_png


class FakeDataset:
    """A dataset of names alone: class c has `counts[c]` images."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = counts

    @property
    def name(self) -> str:
        return "fake"

    @property
    def class_names(self) -> Mapping[int, str]:
        return {c: f"class{c}" for c in range(len(self.counts))}

    def images(self, class_id: int) -> Sequence[str]:
        return [f"{class_id}-{k:04}" for k in range(self.counts[class_id])]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)

    def mask(self, image_id: str, class_id: int) -> NDArray[np.uint8]:
        return np.zeros((4, 4), np.uint8)


@pytest.fixture(scope="session")
def fake_dataset() -> Callable[[Sequence[int]], FakeDataset]:
    return FakeDataset


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the project's data folder {folder} is not here")
    return folder


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Two classes, `cup` with three images (one target too small) and `fork` with one."""
    root = tmp_path / "pictures"
    for name, sides in {"cup": (50, 60, 20), "fork": (64,)}.items():
        for k, side in enumerate(sides):
            mask = np.zeros((80, 100), np.uint8)
            mask[:side, :side] = 255
            write_png(root / name / "masks" / f"{k}.png", mask)
            (root / name / "images").mkdir(exist_ok=True)
            Image.new("RGB", (100, 80), (k, 2, 3)).save(root / name / "images" / f"{k}.jpg")
    return root


@pytest.fixture
def coco_content() -> dict[str, Any]:
    """Category 7 `cat` and 3 `dog`; image 10 has all sorts of regions, image 2 one dog."""
    square = [10, 10, 70, 10, 70, 70, 10, 70]
    return {
        "images": [
            {"id": 10, "file_name": "ten.png", "width": 100, "height": 80},
            {"id": 2, "file_name": "sub/two.png", "width": 90, "height": 70},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"image_id": 10, "category_id": 7, "segmentation": [square], "iscrowd": 0},
            # Columns 60 to 89 as a crowd: runs go down the columns
            {
                "image_id": 10,
                "category_id": 7,
                "segmentation": {"size": [80, 100], "counts": [4800, 2400, 800]},
                "iscrowd": 1,
            },
            {"image_id": 10, "category_id": 3, "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]], "iscrowd": 0},
            {"image_id": 2, "category_id": 3, "segmentation": [[0, 0, 60, 0, 60, 60, 0, 60]]},
        ],
    }


@pytest.fixture
def coco_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Write content (or raw text) as an annotation file beside its two photos."""

    def write(content: Any) -> Path:
        write_png(tmp_path / "images" / "ten.png", np.full((80, 100, 3), 7, np.uint8))
        write_png(tmp_path / "images" / "sub" / "two.png", np.full((70, 90, 3), 9, np.uint8))
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write

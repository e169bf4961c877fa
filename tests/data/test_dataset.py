import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.data.dataset import Dataset, open_dataset
from ntre_deploy.errors import InputError


def test_procedural() -> None:
    dataset: Dataset = open_dataset("procedural")
    assert dataset.name == "procedural:0"
    assert open_dataset("procedural:7").name == "procedural:7"


def test_folder(picture_folder: Path) -> None:
    assert open_dataset(f"folder:{picture_folder}").name == "folder:pictures"


def test_coco(coco_file: Callable[[Any], Path], coco_content: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    path = coco_file(coco_content)
    for spec in (f"coco:{path}", f"coco:{path}:", f"coco:{path}:{tmp_path / 'images'}"):
        assert open_dataset(spec).image("10").shape == (80, 100, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("procedual", "Dataset 'procedual' is unknown.*Did you mean 'procedural'"),
        ("foldr:/x", "Did you mean 'folder'"),
        ("", "is unknown"),
        ("procedural:x", "the seed must be an integer"),
        ("procedural:", "the seed must be an integer"),
        ("procedural:-1", "the seed must be an integer"),
        ("procedural:²", "the seed must be an integer"),
        (f"procedural:{2**32}", "the seed must be an integer"),
        ("procedural:" + "9" * 5000, "the seed must be an integer"),
        ("coco:", "names no path"),
        ("folder", "names no path"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(spec)


def test_bare_path_gets_its_kind(picture_folder: Path) -> None:
    with pytest.raises(InputError, match=f"did you mean 'folder:{picture_folder}'"):
        open_dataset(str(picture_folder))


def test_no_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from ntre_deploy.data import coco, dataset, episodes, folder, folds, images, procedural\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt', 'pycocotools'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

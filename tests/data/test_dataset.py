import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.registry import _pascal_parts, open_dataset
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import write_png


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


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """One train image and one of val, with a mask each."""
    root = tmp_path / "me@home" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, image_id in (("train", "2007_000001"), ("val", "2007_000002")):
        (lists / f"{split}.txt").write_text(image_id)
        write_png(root / "SegmentationClassAug" / f"{image_id}.png", np.full((50, 50), 3, np.uint8))
    (lists / "train_noval.txt").write_text("2007_000001")
    return root


def test_pascal(voc_folder: Path, tmp_path: Path) -> None:
    masks = voc_folder / "SegmentationClassAug"
    for paths in (str(voc_folder), f"{voc_folder}:", f"{voc_folder}:{masks}"):
        for ending, name in (("", "val"), ("@val", "val"), ("@train", "train")):
            assert open_dataset(f"pascal:{paths}{ending}").name == f"pascal:{name}"
    seen: list[tuple[int, int]] = []
    dataset = open_dataset(
        f"pascal:{voc_folder}", cache=tmp_path / "cache", progress=lambda done, total: seen.append((done, total))
    )
    assert dataset.images(2) == ("2007_000002",)
    assert seen == [(1, 1)]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_pascal_errors(voc_folder: Path) -> None:
    with pytest.raises(InputError, match=r"Split 'trainn' is unknown.*Did you mean 'train'"):
        open_dataset(f"pascal:{voc_folder}@trainn")
    with pytest.raises(InputError, match="none is no VOC 2012 folder"):
        open_dataset(f"pascal:{voc_folder}/none@val")
    with pytest.raises(InputError, match=f"did you mean 'pascal:{voc_folder}'"):
        open_dataset(str(voc_folder))


def test_pascal_paths_of_windows() -> None:
    parts = _pascal_parts("", r"C:\VOC2012:D:\sbd@train")
    assert parts == ("C:\\VOC2012", "D:\\sbd", "train")
    assert _pascal_parts("", "C:/a@b/VOC") == ("C:/a@b/VOC", None, "val")
    assert _pascal_parts("", "v:masks@val") == ("v", "masks", "val")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pascl:/x", "Did you mean 'pascal'"),
        ("pascal", "names no path"),
        ("pascal:", "names no path"),
        ("pascal:@val", "does not name one or two folders"),
        ("pascal::/masks", "does not name one or two folders"),
        ("pascal:/a:/b:/c", "does not name one or two folders"),
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
        "from ntre_deploy.data import coco, dataset, episodes, folder, folds, pascal\n"
        "from ntre_deploy.data import procedural, registry, transforms\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt', 'pycocotools', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

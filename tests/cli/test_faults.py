"""Files as users have sent them: each was refused or misread once, and does what it should."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

Done = subprocess.CompletedProcess[str]

pytestmark = pytest.mark.shared


@pytest.fixture
def faults(shared: Path) -> Path:
    folder = shared / "faults"
    if not folder.is_dir():
        pytest.skip("the shared data folder has no faults")
    return folder


@pytest.mark.parametrize(
    ("fault", "mask", "told"),
    [
        ("antialiased_mask", "aa.png", "of its pixels are grey"),
        ("cutout_mask", "cut.png", "what is not transparent is the target"),
        ("labelme_mask", "p.json", ""),
        ("voc_palette_mask", "voc.png", "is the target"),
        ("voc_palette_mask", "voc.png@15", ""),
    ],
)
def test_a_mask_of_every_kind_shows_its_class(
    fault: str, mask: str, told: str, tiny: SimpleNamespace, faults: Path, ntre: Callable[..., Done], here: Path
) -> None:
    folder = faults / fault
    arguments = ["--support", f"red={folder / 'p.jpg'},{folder / mask}", "--out", "out"]
    done = ntre("segment", tiny.bundle, folder / "p.jpg", *arguments, cwd=here)
    assert done.returncode == 0, done.stderr
    assert told in done.stderr
    assert (done.stderr.count("warning: Mask ") == 1) == bool(told)
    with Image.open(here / "out" / "p.png") as written:
        assert np.asarray(written).shape == (240, 320)


@pytest.mark.parametrize("file", ["bboxonly.json", "emptyseg.json", "poly4.json"])
def test_one_bad_annotation_does_not_stop_a_dataset(
    file: str, faults: Path, tiny: SimpleNamespace, ntre: Callable[..., Done], here: Path
) -> None:
    pytest.importorskip("pycocotools")
    folder = faults / "coco_one_bad_annotation"
    spec = f"coco:{folder / file}:{folder / 'images'}"
    done = ntre("eval", tiny.bundle, "--dataset", spec, "--count", "1", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "skipped 1 of 6 annotations" in done.stderr
    assert json.loads(done.stdout)["episodes"]["count"] == 1


def test_backslashes_in_names_are_folders(
    faults: Path, tiny: SimpleNamespace, ntre: Callable[..., Done], here: Path
) -> None:
    pytest.importorskip("pycocotools")
    folder = here / "coco"
    shutil.copytree(faults / "coco_backslash", folder)
    spec = f"coco:{folder / 'backslash.json'}:{folder / 'images'}"
    done = ntre("eval", tiny.bundle, "--dataset", spec, "--count", "6", "--json", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")

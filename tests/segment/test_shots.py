"""Photos with masks as people have them: which files give which mask, and what is asked back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.segment.shots import mask_file, read_shot


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_png(tmp_path / "p.png", np.full((40, 60, 3), 90, np.uint8))
    return tmp_path / "p.png"


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    pytest.importorskip("pycocotools", reason="COCO files need pycocotools (extra [coco])")

    def write(*shown: int, file_name: str = "p.png") -> Path:
        square = [10, 5, 30, 5, 30, 25, 10, 25]
        found: dict[str, Any] = {
            "images": [{"id": 4, "file_name": file_name, "width": 60, "height": 40}],
            "categories": [{"id": 1, "name": "fork"}, {"id": 2, "name": "spoon"}],
            "annotations": [{"image_id": 4, "category_id": c, "segmentation": [square]} for c in shown],
        }
        (tmp_path / "all.json").write_text(json.dumps(found))
        return tmp_path / "all.json"

    return write


def test_a_choice_stands_behind_the_last_at_of_a_file_that_has_no_such_name(tmp_path: Path) -> None:
    (tmp_path / "a@2.png").touch()
    (tmp_path / "b.png").touch()
    assert mask_file(tmp_path / "a@2.png") == (tmp_path / "a@2.png", None)
    assert mask_file(tmp_path / "a@2.png@15") == (tmp_path / "a@2.png", "15")
    assert mask_file(tmp_path / "b.png@any") == (tmp_path / "b.png", "any")
    assert mask_file(tmp_path / "b.png") == (tmp_path / "b.png", None)


@pytest.mark.parametrize(("choice", "rows"), [("@15", [0]), ("@7", [1]), ("@any", [0, 1])])
def test_a_class_mask_gives_the_class_that_was_chosen(photo: Path, choice: str, rows: list[int]) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[0], values[1] = 15, 7
    write_png(photo.with_name("m.png"), values)
    _, target = read_shot("fork", photo, photo.with_name(f"m.png{choice}"))
    assert np.flatnonzero(target.any(axis=1)).tolist() == rows
    with pytest.raises(InputError, match="add @7 to the file's name for one of them, or @any"):
        read_shot("fork", photo, photo.with_name("m.png"))


@pytest.mark.parametrize("choice", ["@", "@x", "@-1", "@1.5", "@123456"])
def test_a_choice_that_is_no_value_is_refused(photo: Path, choice: str) -> None:
    write_png(photo.with_name("m.png"), np.full((40, 60), 255, np.uint8))
    with pytest.raises(InputError, match=r"behind @ stands a value|does not exist"):
        read_shot("fork", photo, photo.with_name(f"m.png{choice}"))


def labelme(path: Path, *labels: str, size: tuple[int, int] = (40, 60)) -> Path:
    square = [[10, 5], [30, 5], [30, 25], [10, 25]]
    shapes = [{"label": label, "points": square, "shape_type": "polygon"} for label in labels]
    path.write_text(json.dumps({"shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]}))
    return path


def test_a_labelme_file_gives_its_only_label_the_class_s_own_or_the_chosen_one(photo: Path) -> None:
    one, two = labelme(photo.with_name("one.json"), "x"), labelme(photo.with_name("two.json"), "fork", "spoon")
    for name, file in (("fork", one), ("fork", two), ("thing", two.with_name("two.json@spoon"))):
        _, target = read_shot(name, photo, file)
        assert target[15, 20] == 1
        assert target[30, 50] == 0
    with pytest.raises(InputError, match="has the labels fork, spoon; add @LABEL"):
        read_shot("thing", photo, two)


def test_a_coco_file_gives_what_it_has_of_the_photo(photo: Path, coco: Callable[..., Path]) -> None:
    for name, shown, choice in (("thing", (2,), ""), ("spoon", (1, 2), ""), ("x", (1, 2), "@fork")):
        file = coco(*shown)
        _, target = read_shot(name, photo, file.with_name(file.name + choice))
        assert (target[15, 20], target[30, 50]) == (1, 0)
    assert read_shot("fork", photo, coco(1, file_name="some\\folder\\p.png"))[1][15, 20] == 1
    with pytest.raises(InputError, match=r"has fork, spoon; add @CLASS"):
        read_shot("thing", photo, coco(1, 2))
    with pytest.raises(InputError, match=r"has no 'knife' in p\.png; there is fork"):
        read_shot("thing", photo, coco(1).with_name("all.json@knife"))
    with pytest.raises(InputError, match=r"has 0 images of the name p\.png"):
        read_shot("fork", photo, coco(1, file_name="q.png"))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "[" * 100_000])
def test_other_json_is_one_line(photo: Path, text: str) -> None:
    photo.with_name("m.json").write_text(text)
    with pytest.raises(InputError, match=r"m\.json is") as caught:
        read_shot("fork", photo, photo.with_name("m.json"))
    assert "\n" not in str(caught.value)


def test_a_mask_of_another_size_or_without_a_target_is_refused(photo: Path) -> None:
    with pytest.raises(InputError, match=r"has 61 x 40 pixels and its image .* 60 x 40"):
        read_shot("fork", photo, labelme(photo.with_name("m.json"), "fork", size=(40, 61)))
    write_png(photo.with_name("m.png"), np.zeros((40, 60), np.uint8))
    with pytest.raises(InputError, match="is empty"):
        read_shot("fork", photo, photo.with_name("m.png"))

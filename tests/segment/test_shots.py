"""Photos with masks as people have them: which files give which mask, and what is asked back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError, NtreWarning
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
    assert mask_file(tmp_path / "a@2.png") == (tmp_path / "a@2.png", [])
    assert mask_file(tmp_path / "a@2.png@15") == (tmp_path / "a@2.png", ["15"])
    assert mask_file(tmp_path / "b.png@any") == (tmp_path / "b.png", ["any"])
    assert mask_file(tmp_path / "b.png") == (tmp_path / "b.png", [])
    assert mask_file(tmp_path / "b.png@in a/folder/c.png@fork") == (tmp_path / "b.png", ["in a/folder/c.png", "fork"])
    assert mask_file(tmp_path / "none.png@3") == (tmp_path / "none.png", ["3"])
    assert mask_file(tmp_path / "none.png") == (tmp_path / "none.png", [])


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
    with pytest.raises(InputError, match="has fork, spoon; add @CLASS"):
        read_shot("thing", photo, two)
    with pytest.raises(InputError, match=r"has no 'knife' in two\.json; there is fork, spoon"):
        read_shot("thing", photo, two.with_name("two.json@knife"))


def test_shapes_without_an_area_are_skipped_beside_others(photo: Path) -> None:
    file = labelme(photo.with_name("m.json"), "fork")
    content = json.loads(file.read_text())
    content["shapes"].append({"label": "fork", "points": [[1, 1], [2, 2]], "shape_type": "line"})
    file.write_text(json.dumps(content))
    with pytest.warns(NtreWarning, match="skipped 1 of 2 annotations: 1 line only; --strict stops$"):
        read_shot("fork", photo, file)
    with pytest.raises(InputError, match="1 of 2 annotations have no mask"):
        read_shot("fork", photo, file, strict=True)
    content["shapes"] = content["shapes"][1:]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="none of its 1 annotations has a mask"):
        read_shot("fork", photo, file)


def test_yolo_s_text_gives_its_only_class_the_class_s_own_or_the_chosen_one(photo: Path) -> None:
    file = photo.with_name("p.txt")
    square, far = "0.2 0.2 0.5 0.2 0.5 0.6", "0.8 0.8 0.9 0.8 0.9 0.95"
    file.write_text(f"1 {square}\n")
    assert read_shot("thing", photo, file)[1][10, 27] == 1
    file.write_text(f"1 {square}\n0 {far}\n")
    assert read_shot("1", photo, file)[1][10, 27] == 1
    photo.with_name("classes.txt").write_text("fork\nspoon\n")
    for name, choice in (("spoon", ""), ("x", "@spoon")):
        assert read_shot(name, photo, file.with_name(f"p.txt{choice}"))[1].sum() > 100
    with pytest.raises(InputError, match="has fork, spoon; add @CLASS"):
        read_shot("x", photo, file)
    file.write_text("1 0.5 0.5 0.2 0.2")
    with pytest.raises(InputError, match="none of its 1 annotations has a mask; export it with polygons"):
        read_shot("spoon", photo, file)


def test_cvat_s_xml_gives_what_it_has_of_the_photo(photo: Path) -> None:
    file = photo.with_name("annotations.xml")
    shapes = '<polygon label="fork" points="10,5;30,5;30,25;10,25"/>'
    images = "".join(f'<image name="{name}" width="60" height="40">{shapes}</image>' for name in ("p.png", "q.png"))
    file.write_text(f"<annotations>{images}</annotations>")
    assert read_shot("thing", photo, file)[1].sum() == 400
    assert read_shot("thing", photo, file.with_name("annotations.xml@q.png@fork"))[1].sum() == 400
    photo.with_name("z.png").write_bytes(photo.read_bytes())
    with pytest.raises(InputError, match=r"has 0 images of the name z\.png; .* such as one of p\.png, q\.png"):
        read_shot("thing", photo.with_name("z.png"), file)


def test_the_photo_may_have_another_name_in_the_file(photo: Path, coco: Callable[..., Path]) -> None:
    file = coco(1, 2, file_name="folder/q.png")
    for choice in ("4", "q.png", "folder/q.png"):
        assert read_shot("fork", photo, Path(f"{file}@{choice}"))[1][15, 20] == 1
        assert read_shot("thing", photo, Path(f"{file}@{choice}@spoon"))[1][15, 20] == 1
        with pytest.raises(InputError, match="has fork, spoon; add @CLASS"):
            read_shot("thing", photo, Path(f"{file}@{choice}"))
    with pytest.raises(InputError, match=r"behind its name stand @CLASS, @IMAGE or @IMAGE@CLASS"):
        read_shot("fork", photo, Path(f"{file}@4@fork@x"))


def test_of_photos_of_one_name_the_one_in_the_same_folder_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO files need pycocotools (extra [coco])")
    names = {1: "train/p.png", 2: "val/p.png"}
    found = {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in names.items()],
        "categories": [{"id": 1, "name": "fork"}],
        "annotations": [
            {"image_id": i, "category_id": 1, "segmentation": [[0, 0, 10 * i, 0, 10 * i, 10, 0, 10]]} for i in names
        ],
    }
    file = tmp_path / "all.json"
    file.write_text(json.dumps(found))
    for folder in ("train", "val", "other"):
        write_png(tmp_path / folder / "p.png", np.full((40, 60, 3), 90, np.uint8))
    assert read_shot("fork", tmp_path / "train" / "p.png", file)[1].sum() == 100
    assert read_shot("fork", tmp_path / "val" / "p.png", file)[1].sum() == 200
    with pytest.raises(InputError, match=r"has 2 images of the name p\.png; .* add @IMAGE to its name, .* 1, 2\."):
        read_shot("fork", tmp_path / "other" / "p.png", file)
    assert read_shot("fork", tmp_path / "other" / "p.png", Path(f"{file}@2"))[1].sum() == 200


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

"""LabelMe's files: shapes to masks, folders of them as a dataset, and what cannot be one."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.labelme import LabelmeDataset, is_labelme, labelme_annotations
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.runtime.masks import Pixels

pytest.importorskip("pycocotools", reason="annotations need pycocotools (extra [coco])")
# pycocotools has not followed NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FILE = Path("p.json")


def content(*shapes: dict[str, Any], height: Any = 40, width: Any = 60, photo: Any = "p.png") -> dict[str, Any]:
    return {"version": "5.4.1", "shapes": [*shapes], "imagePath": photo, "imageHeight": height, "imageWidth": width}


def shape(label: Any = "fork", points: Any = ((10, 5), (30, 5), (30, 25), (10, 25)), kind: Any = "polygon") -> Any:
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind}


def patch(mask: Any, corner: tuple[float, float] = (10, 5)) -> Any:
    """A shape as LabelMe's AI tools write it: two corners, and a PNG in base64."""
    mask = np.asarray(mask, np.uint8)
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    end = corner[0] + mask.shape[1] - 1, corner[1] + mask.shape[0] - 1
    return shape(points=(corner, end), kind="mask") | {"mask": base64.b64encode(file.getvalue()).decode()}


def mask_of(given: dict[str, Any], label: str = "fork") -> Pixels:
    found = labelme_annotations(FILE, {FILE: given}, single=True)
    ((image_id, entry),) = found.entries.items()
    assert entry.size is not None
    return found.mask(image_id, found.classes_in(image_id)[label], entry.size)


@pytest.mark.parametrize(
    "square",
    [
        shape(),
        shape(points=((30, 25), (10, 5)), kind="rectangle"),
        shape(kind=None) | {"flags": {}},
        patch(np.ones((20, 20))),
        patch(np.ones((20, 20)) * 255, (10.0, 5.0)),
    ],
)
def test_a_square_covers_the_pixels_within_its_corners(square: dict[str, Any]) -> None:
    wanted = np.zeros((40, 60), np.uint8)
    wanted[5:25, 10:30] = 1
    mask = mask_of(content(square))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, wanted)


def test_a_circle_has_its_area() -> None:
    mask = mask_of(content(shape(points=((30, 20), (30, 35)), kind="circle")))
    assert abs(int(mask.sum()) - np.pi * 15**2) < np.pi * 15


def test_a_drawn_mask_lies_where_it_was_drawn_and_is_cut_at_the_edge() -> None:
    drawn = np.zeros((6, 8), np.uint8)
    drawn[1:3, 2:7] = 1
    mask = mask_of(content(patch(drawn, (50, 30))))
    assert mask[31:33, 52:57].all()
    assert mask.sum() == 10
    assert mask_of(content(patch(drawn, (-4, -1)))).sum() == 2 * 3


def test_shapes_of_one_label_are_one_mask_and_others_are_not_in_it() -> None:
    other = shape("spoon", ((40, 5), (55, 5), (55, 35)))
    far = shape("fork", ((2, 30), (8, 30), (8, 38)))
    both = mask_of(content(shape(), other, far))
    assert np.array_equal(both, mask_of(content(shape(), far)))
    assert mask_of(content(shape(), other, far), "spoon")[6, 50] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (content(), "has no shapes"),
        (content(shape(), height=None), "says no size"),
        (content(shape(), width=10**9), "says no size"),
        (content(shape(), width=True), "says no size"),
        (content(shape(points=((1, 1), (2, float("nan")), (3, 3)))), r"shape 0 must have points"),
        (content(shape(points=((1, 1), (2, 10**400), (3, 3)))), r"shape 0 must have points"),
        (content(shape(points=((1, 1), (2, 1e9), (3, 3)))), "in or near the image"),
        (content(shape(points=((1, 1), (2,), (3, 3)))), r"shape 0 must have points"),
        (content(shape(kind="cube")), "shape 0 is a 'cube'; polygon, rectangle, circle, mask can be read"),
        (content(shape(kind=["x"] * 99)), "shape 0 is a "),
        (content({"label": "fork"}), r"shape 0 must have points"),
        (content({"points": []}), "shape 0 has no label"),
        (content(shape(label="a\nb")), "shape 0 has no label"),
        (content(patch([[1]]) | {"mask": "!"}), "the mask of shape 0 is no PNG"),
        (content(patch([[1]]) | {"mask": 5}), "the mask of shape 0 is no PNG"),
        (content(patch([[1]]) | {"mask": "AAAA"}), "the mask of shape 0 is no PNG"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        labelme_annotations(FILE, {FILE: given}, single=True)
    assert "\n" not in str(caught.value)


def test_a_drawn_mask_larger_than_its_photo_is_refused() -> None:
    with pytest.raises(InputError, match="a mask of 61 x 2 pixels in an image of 60 x 40"):
        mask_of(content(patch(np.ones((2, 61)), (0, 0))))


def test_other_json_is_not_taken_for_it() -> None:
    assert is_labelme(content(shape()))
    for other in ([], {"annotations": []}, {"shapes": 3}, None):
        assert not is_labelme(other)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`a` beside its photo; `sub/labels/b` with its photo in `sub/images`, as Windows writes it; `c` of a machine."""
    big = ((5, 5), (55, 5), (55, 55), (5, 55))
    root = tmp_path / "cutlery"
    files = {"a": "a.png", "sub/labels/b": "..\\images\\b.png", "c": "C:\\Users\\me\\c.png"}
    for name, photo in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shapes = shape("spoon" if name == "c" else "fork", big), shape("knife", ((1, 1), (9, 9)), "line")
        text = json.dumps(content(*shapes, height=60, width=60, photo=photo) | {"imageData": "AAAA" * 100})
        (root / f"{name}.json").write_text(text, encoding="utf-8-sig")
    for photo in ("a.png", "sub/images/b.png", "c.png"):
        write_png(root / photo, np.full((60, 60, 3), 9, np.uint8))
    return root


def test_a_folder_is_a_dataset(folder: Path) -> None:
    with pytest.warns(NtreWarning, match="cutlery: skipped 3 of 6 annotations: 3 line only; --strict stops$"):
        dataset = LabelmeDataset(folder)
    assert dataset.name == "labelme:cutlery"
    assert dict(dataset.class_names) == {0: "fork", 1: "knife", 2: "spoon"}
    assert [list(dataset.images(c)) for c in range(3)] == [["a", "sub/labels/b"], [], ["c"]]
    for image_id, class_id in (("a", 0), ("sub/labels/b", 0), ("c", 2)):
        assert dataset.image(image_id).shape == (60, 60, 3)
        assert dataset.mask(image_id, class_id).sum() == 50 * 50
    with pytest.raises(
        InputError, match="3 of 6 annotations have no mask: 3 line only; mend or remove them, or leave out"
    ):
        LabelmeDataset(folder, strict=True)


@pytest.mark.filterwarnings("ignore::ntre_deploy.errors.NtreWarning")
def test_photos_outside_and_twice_are_refused(folder: Path) -> None:
    file = folder / "a.json"
    for photo in ("../../x.png", "/etc/x.png", "..\\..\\x.png", "C:x.png"):
        file.write_text(json.dumps(content(shape(), photo=photo)))
        with pytest.raises(InputError, match=r"is neither in .*cutlery nor beside the file"):
            LabelmeDataset(folder)
    file.write_text(json.dumps(content(shape(), photo="sub/images/b.png")))
    with pytest.raises(InputError, match=r"belong to the same photo, sub/images/b\.png"):
        LabelmeDataset(folder)
    for photo in (None, "", "a\n.png"):
        file.write_text(json.dumps(content(shape(), photo=photo)))
        with pytest.raises(InputError, match="names no photo"):
            LabelmeDataset(folder)
    # what is not there is missed when it is wanted, as in other datasets
    file.write_text(json.dumps(content(shape(), photo="gone.png")))
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        LabelmeDataset(folder).image("a")
    file.write_text(json.dumps(content(shape(), height=61, width=60, photo="a.png")))
    with pytest.raises(InputError, match=r"is 60 x 60 pixels .* says 60 x 61"):
        LabelmeDataset(folder).image("a")


@pytest.mark.filterwarnings("ignore:.*skipped 3 of:ntre_deploy.errors.NtreWarning")
def test_other_json_in_the_folder_is_named_and_left_alone(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / ".hidden.json").write_text("{")
    with pytest.warns(NtreWarning, match=r"1 JSON files are not LabelMe's: config\.json; --strict stops"):
        LabelmeDataset(folder)
    with pytest.raises(InputError, match=r"config\.json; move them elsewhere"):
        LabelmeDataset(folder, strict=True)


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"\xff\xfe\xfd", b'{"shapes": 1' + b"0" * 5000 + b"}"])
def test_damaged_files_are_one_line(folder: Path, text: bytes) -> None:
    (folder / "a.json").write_bytes(text)
    with pytest.raises(InputError, match=r"a\.json is not JSON") as caught:
        LabelmeDataset(folder)
    assert "\n" not in str(caught.value)


def test_folders_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no JSON file of LabelMe"):
        LabelmeDataset(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        LabelmeDataset(tmp_path / "none")


@pytest.mark.filterwarnings("ignore::ntre_deploy.errors.NtreWarning")
def test_lists_are_kept_for_these_files(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def lists() -> list[list[str]]:
        dataset = LabelmeDataset(folder, cache=tmp_path / "cache", progress=lambda done, total: seen.append(done))
        return [list(dataset.images(c)) for c in dataset.class_names]

    first = lists()
    seen.clear()
    assert lists() == first
    assert seen == []
    file = folder / "c.json"
    file.write_text(file.read_text("utf-8-sig").replace("55", "30"), "utf-8")
    assert lists()[2] == []

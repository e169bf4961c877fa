import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntre_deploy.data.coco import CocoDataset
from ntre_deploy.data.dataset import MIN_TARGET_PIXELS
from ntre_deploy.errors import InputError, NtreWarning

pytest.importorskip("pycocotools")
# pycocotools has not followed NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Write = Callable[[Any], Path]


def test_classes_and_lists(coco_file: Write, coco_content: dict[str, Any]) -> None:
    dataset = CocoDataset(coco_file(coco_content))
    assert dataset.name == "coco:instances"
    assert dict(dataset.class_names) == {0: "dog", 1: "cat"}
    # The dog of image 10 is too small
    assert dataset.images(0) == ("2",)
    assert dataset.images(1) == ("10",)
    assert dataset.image("10").shape == (80, 100, 3)
    assert dataset.image("2")[0, 0].tolist() == [9, 9, 9]


def test_mask_puts_instances_over_crowds(coco_file: Write, coco_content: dict[str, Any]) -> None:
    mask = CocoDataset(coco_file(coco_content)).mask("10", 1)
    assert mask.shape == (80, 100)
    assert mask.dtype == np.uint8
    assert mask[40, 40] == mask[40, 65] == 1
    assert mask[40, 80] == mask[2, 65] == 255
    assert mask[2, 2] == mask[40, 95] == 0
    assert np.count_nonzero(mask == 1) == 60 * 60


def test_mask_of_an_absent_class_is_empty(coco_file: Write, coco_content: dict[str, Any]) -> None:
    assert not CocoDataset(coco_file(coco_content)).mask("2", 1).any()


def test_images_folder_can_be_elsewhere(coco_file: Write, coco_content: dict[str, Any], tmp_path: Path) -> None:
    path = coco_file(coco_content)
    (tmp_path / "images").rename(tmp_path / "photos")
    assert CocoDataset(path, tmp_path / "photos").image("10").shape == (80, 100, 3)
    # Without a folder `images`, the file's own folder counts
    with pytest.raises(InputError, match=r"ten\.png does not exist"):
        CocoDataset(path).image("10")
    with pytest.raises(InputError, match="IMAGES_FOLDER"):
        CocoDataset(path, tmp_path / "none")


def test_size_rule_counts_the_mask(coco_file: Write, coco_content: dict[str, Any]) -> None:
    for pixels, found in ((MIN_TARGET_PIXELS - 1, ()), (MIN_TARGET_PIXELS, ("2",))):
        counts = [5, pixels, 6300 - 5 - pixels]
        coco_content["annotations"][3]["segmentation"] = {"size": [70, 90], "counts": counts}
        assert CocoDataset(coco_file(coco_content)).images(0) == found


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_compressed_and_plain_runs_give_the_mask(mask: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    from pycocotools import mask as api

    from ntre_deploy.data._segmentation import encode

    height, width = mask.shape
    code = api.encode(np.asfortranarray(mask))
    assert np.array_equal(
        api.decode(encode({"size": [height, width], "counts": code["counts"].decode()}, *mask.shape)), mask
    )
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    plain = np.diff([0, *edges, flat.size]).tolist()
    assert np.array_equal(api.decode(encode({"size": [height, width], "counts": plain}, *mask.shape)), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("x", "list of polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points"),
        ([1, 2, 3, 4, 5, 6], "three points"),
        ([[0, 0, 9, 0, 9, float("nan")]], "finite"),
        ([[0, 0, 9, 0, 9, "9"]], "finite"),
        ([[0, 0, 1e9, 0, 9, 9]], "far outside"),
        ([[0, 0, 10**400, 0, 9, 9]], "."),
        ({"size": [70, 91], "counts": [6300]}, "size"),
        ({"size": [70, 90], "counts": [6301]}, "runs of 6301 pixels"),
        ({"size": [70, 90], "counts": [-1, 6301]}, "run lengths"),
        ({"size": [70, 90], "counts": 5}, "run lengths"),
        ({"size": [70, 90]}, "run lengths"),
        ({"size": [70, 90], "counts": "~"}, "run-length string"),
        ({"size": [70, 90], "counts": "o"}, "cut off"),
        ({"size": [70, 90], "counts": "oooooooooooo0"}, "run-length string"),
    ],
)
def test_bad_segmentations(coco_file: Write, coco_content: dict[str, Any], segmentation: Any, message: str) -> None:
    coco_content["annotations"][3]["segmentation"] = segmentation
    dataset = CocoDataset(coco_file(coco_content))
    for use in (lambda: dataset.images(0), lambda: dataset.mask("2", 0)):
        with pytest.raises(InputError, match=f"image 2 has a bad segmentation: .*{message}") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segmentation": []}, "1 empty"),
        ({"segmentation": [[]]}, "1 empty"),
        ({"segmentation": None}, "1 empty"),
        ({"segmentation": None, "bbox": [0, 0, 9, 9]}, "1 box only"),
        ({"segmentation": [], "bbox": [0, 0, 9, 9]}, "1 box only"),
        ({"segmentation": [], "bbox": [0, 0, 0, 0]}, "1 empty"),
        ({"segmentation": [[1, 2, 3, 4]]}, "1 of fewer than three points"),
        ({"segmentation": [[1, 2], [1, 2, 3, 4]]}, "1 of fewer than three points"),
    ],
)
def test_one_annotation_without_a_mask_among_others_is_left_out_and_counted(
    coco_file: Write, coco_content: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    wanted = CocoDataset(coco_file(coco_content)).images(0)
    coco_content["annotations"].append({"image_id": 2, "category_id": 3} | change)
    with pytest.warns(NtreWarning, match=f"skipped 1 of 5 annotations: {reason}; --strict stops$"):
        dataset = CocoDataset(coco_file(coco_content))
    assert dataset.images(0) == wanted
    assert sum(dataset.skipped.values()) == 1
    with pytest.raises(InputError, match=f"1 of 5 annotations have no mask: {reason}; mend or remove them"):
        CocoDataset(coco_file(coco_content), strict=True)
    # a key that is missing is the same as one that holds nothing
    if change["segmentation"] is None:
        del coco_content["annotations"][-1]["segmentation"]
        with pytest.warns(NtreWarning, match=reason):
            CocoDataset(coco_file(coco_content))


def test_the_short_parts_of_a_polygon_are_left_out_of_it(coco_file: Write, coco_content: dict[str, Any]) -> None:
    wanted = CocoDataset(coco_file(coco_content)).mask("2", 0)
    coco_content["annotations"][3]["segmentation"] += [[1, 2, 3, 4], []]
    dataset = CocoDataset(coco_file(coco_content))
    assert np.array_equal(dataset.mask("2", 0), wanted)
    assert not dataset.skipped


def test_a_file_without_any_mask_is_refused(coco_file: Write, coco_content: dict[str, Any]) -> None:
    for annotation in coco_content["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(InputError, match="none of its 4 annotations has a mask; export it with polygons"):
        CocoDataset(coco_file(coco_content))


def test_names_with_backslashes_are_found(coco_file: Write, coco_content: dict[str, Any]) -> None:
    wanted = CocoDataset(coco_file(coco_content)).image("2")
    coco_content["images"][1]["file_name"] = "sub\\two.png"
    dataset = CocoDataset(coco_file(coco_content))
    assert np.array_equal(dataset.image("2"), wanted)


@pytest.mark.parametrize(
    "name", ["../ten.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:\\x.png", "C:x.png", "", "a\nb.png", "a\0"]
)
def test_file_names_stay_in_the_folder(coco_file: Write, coco_content: dict[str, Any], name: str) -> None:
    coco_content["images"][0]["file_name"] = name
    with pytest.raises(InputError, match="leaves the images folder") as caught:
        CocoDataset(coco_file(coco_content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("images",), None, "lists images are missing"),
        (("categories",), [], "no categories"),
        (("categories", 0), 5, r"categories\[0\] is not an object"),
        (("categories", 1, "id"), 7, "category id 7 occurs twice"),
        (("categories", 1, "name"), 1, "'name' of .* is a int, not str"),
        (("images", 1, "id"), 10, "image id 10 occurs twice"),
        (("images", 0, "width"), "100", "'width'"),
        (("images", 0, "width"), 0, "0 x 80"),
        (("images", 0, "width"), 10**9, "pixels are allowed"),
        (("images", 0, "width"), True, "'width'"),
        (("annotations", 0, "image_id"), 99, "image 99, which is not listed"),
        (("annotations", 0, "category_id"), 99, "unknown category 99"),
        (("annotations", 0, "category_id"), [], "'category_id'"),
        (("annotations", 0, "iscrowd"), "0", "'iscrowd' of .* must be 0 or 1"),
    ],
)
def test_wrong_content(
    coco_file: Write, coco_content: dict[str, Any], where: tuple[Any, ...], value: Any, message: str
) -> None:
    content: Any = copy.deepcopy(coco_content)
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(InputError, match=message):
        CocoDataset(coco_file(content))


@pytest.mark.parametrize(
    ("kind", "key"), [("images", "file_name"), ("annotations", "category_id"), ("categories", "id")]
)
def test_missing_keys_are_named(coco_file: Write, coco_content: dict[str, Any], kind: str, key: str) -> None:
    del coco_content[kind][1][key]
    with pytest.raises(InputError, match=rf"{kind}\[1\] has no '{key}'"):
        CocoDataset(coco_file(coco_content))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff", '{"images": 1' + "0" * 5000 + "}"])
def test_not_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"bad.json is not JSON") as caught:
        CocoDataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '{"images": []}'])
def test_not_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match="is not COCO"):
        CocoDataset(tmp_path / "bad.json")


def test_cut_off_json(coco_file: Write, coco_content: dict[str, Any]) -> None:
    text = json.dumps(coco_content)
    with pytest.raises(InputError, match="not JSON"):
        CocoDataset(coco_file(text[: len(text) // 2]))


def test_image_of_another_size(coco_file: Write, coco_content: dict[str, Any]) -> None:
    coco_content["images"][1]["width"] = 91
    with pytest.raises(InputError, match=r"is 90 x 70 pixels .* says 91 x 70"):
        CocoDataset(coco_file(coco_content)).image("2")


def test_unknown_names(coco_file: Write, coco_content: dict[str, Any], tmp_path: Path) -> None:
    dataset = CocoDataset(coco_file(coco_content))
    with pytest.raises(InputError, match=r"no image '11'"):
        dataset.image("11")
    with pytest.raises(InputError, match="no class 2"):
        dataset.mask("10", 2)
    with pytest.raises(InputError, match="does not exist"):
        CocoDataset(tmp_path / "none.json")


def test_without_pycocotools(coco_file: Write, coco_content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(InputError, match=r"pip install 'ntre_deploy\[coco\]'"):
        CocoDataset(coco_file(coco_content))


def test_lists_are_kept_for_the_content_of_the_file(
    coco_file: Write, coco_content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def lists(cache: Path | None) -> list[tuple[str, ...]]:
        dataset = CocoDataset(path, cache=cache, progress=lambda done, total: seen.append((done, total)))
        return [tuple(dataset.images(c)) for c in dataset.class_names]

    path = coco_file(coco_content)
    before = sorted(tmp_path.rglob("*"))
    assert lists(None) == [("2",), ("10",)]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sorted(tmp_path.rglob("*")) == before, "so few masks are not worth a file"
    cache = tmp_path / "cache"
    assert lists(cache) == [("2",), ("10",)]
    seen.clear()
    assert lists(cache) == [("2",), ("10",)]
    assert seen == []
    coco_content["annotations"].pop()
    coco_file(coco_content)
    assert lists(cache) == [(), ("10",)]
    monkeypatch.setattr("ntre_deploy.data.annotated.WORTH_KEEPING", 2)
    assert lists(None) == [(), ("10",)]
    (kept,) = tmp_path.glob("ntre-coco-instances-*.json")
    kept.unlink()
    kept.mkdir()  # it cannot be written any more, which must not matter
    assert lists(None) == [(), ("10",)]


@pytest.mark.shared
def test_real_photos(shared: Path) -> None:
    file = shared / "data" / "coco_mini" / "instances_val.json"
    dataset = CocoDataset(file)
    content = json.loads(file.read_bytes())
    assert len(dataset.class_names) == 80
    assert dataset.class_names[0] == "person"
    listed = {c: dataset.images(c) for c in dataset.class_names}
    assert sum(map(len, listed.values())) > 100
    crowded = [a for a in content["annotations"] if a["iscrowd"]]
    ranks = {c["id"]: k for k, c in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
    assert crowded
    for a in crowded[:5]:
        assert 255 in dataset.mask(str(a["image_id"]), ranks[a["category_id"]])
    for class_id, ids in listed.items():
        for image_id in ids[:2]:
            mask = dataset.mask(image_id, class_id)
            assert dataset.image(image_id).shape[:2] == mask.shape
            assert np.count_nonzero(mask == 1) >= MIN_TARGET_PIXELS

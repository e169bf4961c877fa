"""YOLO's segmentation text: where photos, labels and names are, and lines that are none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.data import _yolofiles
from ntre_deploy.data._yolofiles import label_file, names_near
from ntre_deploy.data.yolo import YoloDataset, read_yolo_labels
from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import write_png

pytest.importorskip("pycocotools", reason="annotations need pycocotools (extra [coco])")
pytest.importorskip("yaml", reason="YOLO's data.yaml needs PyYAML (extra [yolo])")
# pycocotools has not followed NumPy 2 yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SQUARE = "0.1 0.1 0.7 0.1 0.7 0.9 0.1 0.9"
YAML = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: fork\n  1: no\n"


def add(root: Path, name: str, *lines: str, images: str = "images", labels: str = "labels") -> None:
    write_png(root / images / f"{name}.png", np.full((80, 100, 3), 7, np.uint8))
    if lines:
        path = root / labels / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cutlery"
    add(folder, "train/a", f"0 {SQUARE}", "")
    add(folder, "train/b", f"1.0 {SQUARE}", f"0 {SQUARE}")
    add(folder, "val/c", f"1 {SQUARE}")
    add(folder, "val/empty")
    (folder / "data.yaml").write_text(YAML)
    return folder


def test_a_split_of_a_yaml_file_is_a_dataset(root: Path) -> None:
    dataset = YoloDataset(root / "data.yaml", "train")
    assert dataset.name == "yolo:cutlery@train"
    # `no` is a name, and not YAML's false
    assert dict(dataset.class_names) == {0: "fork", 1: "no"}
    assert list(dataset.images(0)) == ["images/train/a", "images/train/b"]
    assert list(dataset.images(1)) == ["images/train/b"]
    assert dataset.image("images/train/a").shape == (80, 100, 3)
    mask = dataset.mask("images/train/a", 0)
    assert mask[8:72, 10:70].all()
    assert mask.sum() == 64 * 60
    assert not YoloDataset(root, "val").mask("images/val/empty", 0).any()
    assert list(YoloDataset(root, "all").images(1)) == ["images/val/c", "images/train/b"]


def test_the_split_must_be_named_where_there_are_several(root: Path) -> None:
    for source in (root, root / "data.yaml"):
        with pytest.raises(InputError, match=r"has the splits train, val; add one to its name: @train, @val, @all"):
            YoloDataset(source)
    with pytest.raises(InputError, match="split 'test' is unknown"):
        YoloDataset(root, "test")
    (root / "data.yaml").write_text("val: images/val\nnames: [fork, spoon]\n")
    assert YoloDataset(root).name == "yolo:cutlery@val"


@pytest.mark.parametrize(
    "text",
    [
        "path: /content/elsewhere\ntrain: images/train\nnames: [fork, spoon]",  # of another machine
        "train: ../images/train\nnames: ['fork', 'spoon']",  # as Roboflow writes it
        "train: [images/train, images/train]\nnames: {0: fork, 1: spoon}",
        "train: list.txt\nnames: [fork, spoon]",
        "path: ../cutlery\ntrain: images\\train\nnames: [fork, spoon]",
        "\ufefftrain: ./images/train\nnames: [fork, spoon]",
    ],
)
def test_photos_are_found_as_tools_name_them(root: Path, text: str) -> None:
    (root / "data.yaml").write_text(text, encoding="utf-8")
    (root / "list.txt").write_text("./images/train/a.png\n\nimages\\train\\b.png\n")
    assert list(YoloDataset(root / "data.yaml").images(0)) == ["images/train/a", "images/train/b"]


def test_a_folder_without_a_yaml_file_is_taken_as_a_whole(root: Path) -> None:
    (root / "data.yaml").unlink()
    assert dict(YoloDataset(root).class_names) == {0: "0", 1: "1"}
    (root / "classes.txt").write_text("fork\nspoon\n\n", encoding="utf-8-sig")
    dataset = YoloDataset(root)
    assert dataset.name == "yolo:cutlery"
    assert dict(dataset.class_names) == {0: "fork", 1: "spoon"}
    assert list(dataset.images(0)) == ["images/train/a", "images/train/b"]
    assert list(YoloDataset(root / "images" / "val").images(1)) == ["c"]
    with pytest.raises(InputError, match="so there is no split 'val'; leave out @val"):
        YoloDataset(root, "val")


def test_labels_lie_beside_photos_or_in_a_folder_of_their_own() -> None:
    for photo, label in (
        ("d/images/a.jpg", "d/labels/a.txt"),
        ("images/x/images/y/a.jpg", "images/x/labels/y/a.txt"),
        ("d/photos/a.b.jpg", "d/photos/a.b.txt"),
        ("d/images.jpg", "d/images.txt"),
        ("images/a.jpg", "labels/a.txt"),
    ):
        assert label_file(Path(photo)) == Path(label)


def test_lines_without_a_mask_are_skipped_and_counted(root: Path) -> None:
    add(root, "val/d", "0 0.5 0.5 0.2 0.2", "0", "1 0.5 0.5", f"1 {SQUARE}")
    told = "3 of 5 annotations.*: 1 box only, 1 empty, 1 of fewer than three points"
    with pytest.warns(NtreWarning, match=f"skipped {told}; --strict stops$"):
        dataset = YoloDataset(root, "val")
    assert list(dataset.images(1)) == ["images/val/c", "images/val/d"]
    with pytest.raises(InputError, match=told):
        YoloDataset(root, "val", strict=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"2 {SQUARE}", r"line 1: class 2 has no name; there are 2: 0 to 1"),
        (f"-1 {SQUARE}", "'-1' is no class number"),
        (f"0.5 {SQUARE}", "'0.5' is no class number"),
        (f"1e999 {SQUARE}", "'1e999' is no class number"),
        (f"fork {SQUARE}", "'fork' is no class number"),
        ("0 0.1 0.1 0.2 0.2 0.3", "has 5 numbers behind its class"),
        ("0 0.1 0.1 0.2 0.2 0.3 x", "something else than numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 nan", "fractions of the photo's width and height"),
        ("0 10 10 70 10 70 70", "fractions of the photo's width and height"),
        ("\0", "is no class number"),
    ],
)
def test_a_line_that_is_none_is_named(root: Path, line: str, message: str) -> None:
    add(root, "val/c", line)
    with pytest.raises(InputError, match=rf"c\.txt, line 1.*{message}|{message}") as caught:
        YoloDataset(root, "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "is not YAML that can be read"),
        ("[" * 5000, "is not YAML that can be read"),
        ("a: \t- b", "is not YAML that can be read"),
        ("\udcff", "is not YAML that can be read"),
        ("3", "has no names of classes"),
        ("names: 3\nval: images", "has no names of classes"),
        ("names: []\nval: images", "names no class"),
        ("names: [[a]]\nval: images", "names must be a list, or numbers"),
        ("names: {a: b}\nval: images", "names must be a list, or numbers"),
        ("names: [a, b]", "names no photos"),
        ("names: [a, b]\nval: {a: b}", "are folders or lists of photos"),
        ("names: [a, b]\nval: nowhere", "'nowhere' is not in"),
        ("names: [a, b]\nval: /etc", "'/etc' is not in"),
        ("names: [a, b]\nval: ../../..", "is not in"),
        ("names: [a, b]\nval: data.yaml", "neither a folder nor a .txt list"),
        ("names: [a, b]\nval: labels", "there are no photos"),
        ("names: [a, b]\nval: bad.txt", r"bad\.txt, line 1: '/etc/passwd' is no photo"),
        ("names: [a, b]\nval: " + "x" * 5000, "is not in"),
    ],
)
def test_a_yaml_file_that_is_none_is_one_line(root: Path, text: str, message: str) -> None:
    (root / "data.yaml").write_text(text, errors="surrogateescape")
    (root / "bad.txt").write_text("/etc/passwd\n")
    with pytest.raises(InputError, match=message) as caught:
        YoloDataset(root / "data.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_that_refers_to_itself_unfolds_to_nothing(root: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
    )
    (root / "data.yaml").write_text(bomb + "val: images/val\nnames: *t\n")
    with pytest.raises(InputError, match="names must be a list, or numbers"):
        YoloDataset(root)
    (root / "data.yaml").write_text("names: &a [*a]\nval: images/val\n")
    with pytest.raises(InputError, match="is not YAML that can be read"):
        YoloDataset(root)


def test_two_photos_of_one_label_file_are_refused(root: Path) -> None:
    write_png(root / "images" / "val" / "c.bmp", np.zeros((80, 100, 3), np.uint8))
    with pytest.raises(InputError, match=r"share the label file .*c\.txt; rename one"):
        YoloDataset(root, "val")


def test_a_changed_photo_or_label_makes_the_lists_new(root: Path, tmp_path: Path) -> None:
    def lists() -> list[str]:
        return list(YoloDataset(root, "val", cache=tmp_path / "cache").images(1))

    assert lists() == ["images/val/c"]
    assert lists() == ["images/val/c"]
    write_png(root / "images" / "val" / "c.png", np.zeros((8, 10, 3), np.uint8))
    assert lists() == []
    add(root, "val/c", f"1 {SQUARE}")
    assert lists() == ["images/val/c"]
    add(root, "val/c", f"0 {SQUARE}")
    write_png(root / "images" / "val" / "c.png", np.zeros((80, 100, 3), np.uint8))
    assert lists() == []


def test_a_label_file_alone_finds_the_names_near_it(root: Path) -> None:
    found = read_yolo_labels(root / "labels" / "train" / "b.txt")
    assert found.classes_in("b") == {"fork": 0, "no": 1}
    alone = root.parent / "alone" / "a" / "b" / "c" / "x.txt"
    alone.parent.mkdir(parents=True)
    alone.write_text(f"3 {SQUARE}")
    assert read_yolo_labels(alone).classes_in("x") == {"3": 3}
    alone.write_text("")
    with pytest.raises(InputError, match="has no labels and no file that names classes"):
        read_yolo_labels(alone)
    alone.write_bytes(b"\xff\xfe0 0.1")
    with pytest.raises(InputError, match="it is no text in UTF-8"):
        read_yolo_labels(alone)
    with pytest.raises(InputError, match="does not exist"):
        read_yolo_labels(alone.with_name("none.txt"))
    alone.with_name("classes.txt").write_text("a\n\nb")
    with pytest.raises(InputError, match="one name of a class on each line"):
        names_near(alone)


def test_what_no_label_file_has_is_refused_unread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_yolofiles, "_TEXT_BYTES", 10)
    with pytest.raises(InputError, match="bytes, which no label file has"):
        YoloDataset(root, "val")
    monkeypatch.setattr(_yolofiles, "_YAML_BYTES", 10)
    with pytest.raises(InputError, match="is not YAML"):
        YoloDataset(root, "val")


def test_without_pyyaml(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(InputError, match=r"needs PyYAML: pip install 'ntre_deploy\[yolo\]'"):
        YoloDataset(root, "val")


@given(st.text(max_size=60))
def test_any_text_is_read_or_one_line(tmp_path_factory: Any, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any" / "a.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        told = str(read_yolo_labels(file).source)
    except InputError as error:
        told = str(error)
    assert "\n" not in told

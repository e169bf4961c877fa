import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.data.dataset import MIN_TARGET_PIXELS
from ntre_deploy.data.folds import novel_classes
from ntre_deploy.data.pascal import CLASSES, PascalDataset
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import InputError

Labels = NDArray[np.uint8]
HEIGHT, WIDTH = 70, 90
TRAIN = ("2007_000001", "2007_000002")
NOVAL = ("2007_000002", "2008_000003")
VAL = ("2007_000010", "2007_000011")


def labels_of(image_id: str) -> Labels:
    """Labels that differ from image to image; the first train image has a class on either side of the size rule."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    flat = labels.reshape(-1)
    if image_id == TRAIN[0]:
        flat[:MIN_TARGET_PIXELS] = 1
        flat[MIN_TARGET_PIXELS : 2 * MIN_TARGET_PIXELS - 1] = 20
    else:
        flat[: 60 * 90] = {TRAIN[1]: 2, NOVAL[1]: 20, VAL[0]: 15, VAL[1]: 1}[image_id]
    labels[-1] = 255
    return labels


def write_labels(path: Path, labels: Labels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.reshape(-1).tolist())
    picture.putpalette([(37 * k) % 256 for k in range(768)])
    picture.save(path)


def write_mat(path: Path, content: dict[str, Any]) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, content)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A folder VOC2012 with photos, its own masks, the joined masks and SBD's list."""
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, ids in (("train", TRAIN), ("val", VAL), ("train_noval", NOVAL)):
        (lists / f"{name}.txt").write_text("\n".join(reversed(ids)) + "\n")
    (root / "JPEGImages").mkdir()
    for k, image_id in enumerate(sorted({*TRAIN, *NOVAL, *VAL})):
        write_labels(root / "SegmentationClassAug" / f"{image_id}.png", labels_of(image_id))
        if image_id in (*TRAIN, *VAL):
            write_labels(root / "SegmentationClass" / f"{image_id}.png", labels_of(image_id))
        Image.new("RGB", (WIDTH, HEIGHT), (20 * k, 0, 0)).save(root / "JPEGImages" / f"{image_id}.jpg")
    return root


@pytest.fixture
def sbd(voc: Path, tmp_path: Path) -> Path:
    """SBD's folder; its mask of an image that VOC has too is another one."""
    root = tmp_path / "sbd"
    for image_id, labels in ((NOVAL[1], labels_of(NOVAL[1])), (NOVAL[0], np.full((HEIGHT, WIDTH), 7, np.uint8))):
        write_mat(root / "cls" / f"{image_id}.mat", {"GTcls": {"Segmentation": labels}})
    (voc / "ImageSets" / "Segmentation" / "train_noval.txt").rename(root / "train_noval.txt")
    shutil.rmtree(voc / "SegmentationClassAug")
    return root


def lists_of(dataset: PascalDataset) -> dict[int, tuple[str, ...]]:
    return {c: tuple(ids) for c in dataset.class_names if (ids := dataset.images(c))}


def test_classes_and_lists(voc: Path) -> None:
    train, val = PascalDataset(voc, split="train"), PascalDataset(voc)
    assert (train.name, val.name) == ("pascal:train", "pascal:val")
    assert list(val.class_names) == list(range(20))
    assert [val.class_names[c] for c in (0, 10, 14, 19)] == ["aeroplane", "diningtable", "person", "tvmonitor"]
    assert train.ids == ("2007_000001", "2007_000002", "2008_000003")
    assert val.ids == VAL
    # tvmonitor is one pixel short in the first image
    assert lists_of(train) == {0: ("2007_000001",), 1: ("2007_000002",), 19: ("2008_000003",)}
    assert lists_of(val) == {0: ("2007_000011",), 14: ("2007_000010",)}


def test_masks_and_photos(voc: Path) -> None:
    dataset = PascalDataset(voc, split="train")
    labels = labels_of(TRAIN[0])
    for class_id in (0, 1, 19):
        mask = dataset.mask(TRAIN[0], class_id)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask == 1, labels == class_id + 1)
        assert np.array_equal(mask == 255, labels == 255)
        assert set(np.unique(mask)) <= {0, 1, 255}
    assert dataset.image(TRAIN[0]).shape == (HEIGHT, WIDTH, 3)
    assert dataset.image(NOVAL[1])[0, 0, 0].item() == pytest.approx(80, abs=2)


def test_mat_masks_fill_up_vocs_own(voc: Path, sbd: Path) -> None:
    dataset = PascalDataset(voc, sbd, "train")
    # 2007_000002 has class 1 in VOC's mask and class 6 in SBD's
    assert lists_of(dataset) == {0: ("2007_000001",), 1: ("2007_000002",), 19: ("2008_000003",)}
    assert np.array_equal(dataset.mask(NOVAL[1], 19) == 1, labels_of(NOVAL[1]) == 20)
    assert lists_of(PascalDataset(voc, sbd)) == {0: ("2007_000011",), 14: ("2007_000010",)}


def test_mat_masks_in_the_folders_of_the_archive(voc: Path, sbd: Path, tmp_path: Path) -> None:
    inner = tmp_path / "archive" / "benchmark_RELEASE" / "dataset"
    inner.parent.mkdir(parents=True)
    sbd.rename(inner)
    for folder in (tmp_path / "archive", inner.parent):
        assert PascalDataset(voc, folder, "train").images(19) == ("2008_000003",)


def test_sbds_photo_where_voc_has_none(voc: Path, sbd: Path) -> None:
    (sbd / "img").mkdir()
    (voc / "JPEGImages" / "2008_000003.jpg").rename(sbd / "img" / "2008_000003.jpg")
    assert PascalDataset(voc, sbd, "train").image("2008_000003").shape == (HEIGHT, WIDTH, 3)


def test_val_needs_nothing_of_sbd(voc: Path) -> None:
    shutil.rmtree(voc / "SegmentationClassAug")
    (voc / "ImageSets" / "Segmentation" / "train_noval.txt").unlink()
    assert PascalDataset(voc).images(14) == ("2007_000010",)
    with pytest.raises(InputError, match=r"'train' of .* needs SBD's masks too; name them: pascal:"):
        PascalDataset(voc, split="train")


def test_joined_list_with_paths(voc: Path, tmp_path: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "train_noval.txt").unlink()
    lines = [f"JPEGImages/{i}.jpg SegmentationClassAug/{i}.png\n" for i in ("2008_000003", *TRAIN)]
    masks = tmp_path / "elsewhere"
    (voc / "SegmentationClassAug").rename(masks)
    (tmp_path / "voc_sbd_merge_noduplicate.txt").write_text("".join(lines))
    assert PascalDataset(voc, masks, "train").ids == (*TRAIN, "2008_000003")


def test_lists_without_photos(voc: Path) -> None:
    shutil.rmtree(voc / "JPEGImages")
    dataset = PascalDataset(voc)
    assert dataset.images(14) == (VAL[0],)
    assert dataset.mask(VAL[0], 14).any()
    with pytest.raises(InputError, match=r"Photo .*JPEGImages.2007_000010\.jpg does not exist"):
        dataset.image(VAL[0])


def test_photo_of_another_size(voc: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(voc / "JPEGImages" / f"{VAL[0]}.jpg")
    with pytest.raises(InputError, match=r"000010\.png is 90 x 70 pixels but its image .*000010\.jpg is 90 x 71"):
        PascalDataset(voc).mask(VAL[0], 14)


def test_unknown_names(voc: Path) -> None:
    dataset = PascalDataset(voc)
    for ask in (dataset.image, lambda i: dataset.mask(i, 0)):
        with pytest.raises(InputError, match=r"pascal:val has no image '2007_000012'. Did you mean '2007_00001"):
            ask("2007_000012")
    with pytest.raises(InputError, match="no class 20; its classes are 0 to 19"):
        dataset.images(20)
    with pytest.raises(InputError, match="no class -1"):
        dataset.mask(VAL[0], -1)


def _label_21(path: Path) -> None:
    labels = labels_of(path.stem)
    labels[3, 3] = 21
    write_labels(path, labels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "Image 2007_000010 of pascal:val has no mask; expected .*ClassAug.2007_000010.png"),
        (_label_21, "2007_000010.png holds the value 21; labels are 0 to 20 and 255"),
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "2007_000010.png is damaged or cut off"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "2007_000010.png is not an image"),
        (lambda path: Image.new("RGB", (9, 9)).save(path), "2007_000010.png has the mode RGB; expected a palette"),
    ],
)
def test_bad_masks(voc: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(voc / "SegmentationClassAug" / f"{VAL[0]}.png")
    dataset = PascalDataset(voc)
    # No lists of half the masks may stay behind: the second call fails as the first one did
    for _ in range(2):
        with pytest.raises(InputError, match=message) as caught:
            dataset.images(0)
        assert "\n" not in str(caught.value)
    assert not list(voc.glob("*.json"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(bytes(400)),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes() + bytes(1 << 20)),
        lambda path: write_mat(path, {"GTinst": {"Segmentation": labels_of(path.stem)}}),
        lambda path: write_mat(path, {"GTcls": {"Boundaries": labels_of(path.stem)}}),
        lambda path: write_mat(path, {"GTcls": {"Segmentation": labels_of(path.stem).astype(np.float64)}}),
        lambda path: write_mat(path, {"GTcls": {"Segmentation": np.zeros((0, 4), np.uint8)}}),
    ],
)
def test_bad_mat_files(voc: Path, sbd: Path, damage: Callable[[Path], None]) -> None:
    damage(sbd / "cls" / f"{NOVAL[1]}.mat")
    dataset = PascalDataset(voc, sbd, "train")
    with pytest.raises(InputError, match=r"2008_000003\.mat is damaged .*expected GTcls\.Segmentation") as caught:
        dataset.mask(NOVAL[1], 0)
    assert "\n" not in str(caught.value)


def test_bad_value_in_a_mat_file(voc: Path, sbd: Path) -> None:
    write_mat(sbd / "cls" / f"{NOVAL[1]}.mat", {"GTcls": {"Segmentation": np.full((HEIGHT, WIDTH), 21, np.uint8)}})
    with pytest.raises(InputError, match=r"2008_000003\.mat holds the value 21"):
        PascalDataset(voc, sbd, "train").images(0)


def test_mat_files_without_scipy(voc: Path, sbd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    dataset = PascalDataset(voc, sbd, "train")
    with pytest.raises(InputError, match=r"need scipy: pip install 'ntre_deploy\[train\]'"):
        dataset.images(0)


def test_wrong_split(voc: Path) -> None:
    with pytest.raises(
        InputError, match=r"Split 'trian' is unknown; it must be one of train, val\. Did you mean 'train'"
    ):
        PascalDataset(voc, split="trian")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_lists(voc: Path, split: str) -> None:
    lists = voc / "ImageSets" / "Segmentation"
    (lists / f"{split}.txt").unlink()
    with pytest.raises(InputError, match=rf"Image list .*{split}\.txt cannot be read: No such file"):
        PascalDataset(voc, split=split)


def test_missing_list_of_sbd(voc: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "train_noval.txt").unlink()
    with pytest.raises(InputError, match=r"needs SBD's list train_noval\.txt .* put it into .*ClassAug or .*Segment"):
        PascalDataset(voc, split="train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"2007_000010\n../../etc/passwd\n", r"val\.txt, line 2: '../../etc/passwd' names no VOC image"),
        (b"2007_0000100\n", "line 1: '2007_0000100' names no VOC image"),
        ("\uff12007_000010\n".encode(), "line 1: .* names no VOC image"),
        (b"x" * 9000, "line 1: 'x{40}' names no VOC image"),
        (b"\xff\xfe2\x000\x00", "cannot be read: it is no text"),
    ],
)
def test_bad_lists(voc: Path, content: bytes, message: str) -> None:
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        PascalDataset(voc)
    assert "\n" not in str(caught.value)


def test_train_must_not_hold_val(voc: Path) -> None:
    (voc / "ImageSets" / "Segmentation" / "train_noval.txt").write_text("\n".join((*NOVAL, *VAL)))
    with pytest.raises(InputError, match=r"shares 2 images with .*val\.txt, such as 2007_000010; expected SBD's"):
        PascalDataset(voc, split="train")


def test_wrong_folders(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"is no VOC 2012 folder; .* Did you mean '{voc}'"):
        PascalDataset(tmp_path)
    with pytest.raises(InputError, match=r"none is no VOC 2012 folder; ImageSets/Segmentation is expected in it\.$"):
        PascalDataset(tmp_path / "none")
    with pytest.raises(InputError, match="JPEGImages holds neither PNG masks nor SBD's folder 'cls'"):
        PascalDataset(voc, voc / "JPEGImages")
    with pytest.raises(InputError, match=r"Masks folder .*none cannot be read: No such"):
        PascalDataset(voc, tmp_path / "none")


class Calls:
    """Notes the progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))


def test_progress_and_the_second_use(voc: Path) -> None:
    first, second = Calls(), Calls()
    dataset = PascalDataset(voc, split="train", progress=first)
    assert first.seen == []
    built = lists_of(dataset)
    assert first.seen == [(1, 3), (2, 3), (3, 3)]
    assert lists_of(PascalDataset(voc, split="train", progress=second)) == built
    assert second.seen == []


@pytest.mark.parametrize("same", ["size", "time"])
def test_changed_masks_are_read_again(voc: Path, same: str) -> None:
    assert PascalDataset(voc).images(5) == ()
    path = voc / "SegmentationClassAug" / f"{VAL[0]}.png"
    before = path.stat()
    labels = np.full((HEIGHT, WIDTH), 6, np.uint8)
    write_labels(path, labels)
    if same == "size":
        path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert path.stat().st_size == before.st_size
    else:
        path.write_bytes(path.read_bytes().ljust(before.st_size + 1, b"\0"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert PascalDataset(voc).images(5) == (VAL[0],)


def test_another_list_makes_other_lists(voc: Path) -> None:
    assert PascalDataset(voc).images(14) == (VAL[0],)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text(VAL[1])
    assert PascalDataset(voc).images(14) == ()


def _edited(key: str, value: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), key: value})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace(VAL[0], VAL[1]),
        _edited("version", 2),
        _edited("fingerprint", "0" * 64),
        _edited("lists", [[]] * 20),
        _edited("sha256", None),
    ],
)
def test_damaged_caches_are_built_again(voc: Path, damage: Callable[[str], str]) -> None:
    built = lists_of(PascalDataset(voc))
    (path,) = voc.glob("ntre-pascal-val-*.json")
    whole = path.read_text()
    path.write_text(damage(whole))
    calls = Calls()
    assert lists_of(PascalDataset(voc, progress=calls)) == built
    assert len(calls.seen) == 2
    assert path.read_text() == whole


@pytest.mark.parametrize("lists", [[["2007_999999"], *[[]] * 19], [[]] * 19, [[[]]] * 20, 3, {"a": []}])
def test_forged_caches_are_built_again(voc: Path, lists: object) -> None:
    from ntre_deploy.data._lists import _digest

    built = lists_of(PascalDataset(voc))
    (path,) = voc.glob("*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "lists": lists, "sha256": _digest(content["fingerprint"], lists)}))
    assert lists_of(PascalDataset(voc)) == built


def test_cache_folder_of_the_caller(voc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    dataset = PascalDataset(voc, cache=folder)
    dataset.images(0)
    assert len(list(folder.glob("*.json"))) == 1
    assert not list(voc.glob("*.json"))
    # Other masks of the same folder keep a file of their own
    PascalDataset(voc, voc / "SegmentationClass", cache=folder).images(0)
    assert len(list(folder.glob("*.json"))) == 2


def test_cache_that_cannot_be_written(voc: Path, tmp_path: Path) -> None:
    calls = Calls()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        PascalDataset(voc, cache=tmp_path / "file", progress=calls).images(0)
    # The folder is tried before the masks are read
    assert calls.seen == []


def test_default_cache_that_cannot_be_written_is_left_out(voc: Path) -> None:
    PascalDataset(voc).images(0)
    (path,) = voc.glob("*.json")
    path.unlink()
    path.mkdir()
    assert PascalDataset(voc).images(14) == (VAL[0],)


def real_voc(shared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The real lists in VOC's places, and the folder of the real masks."""
    data = shared / "data" / "pascal"
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = {"voc2012_train": "train", "val_1449": "val", "sbd_train_noval": "train_noval"}
    for source, name in names.items():
        shutil.copy(data / "lists" / f"{source}.txt", lists / f"{name}.txt")
    return tmp_path / "VOC2012", data / "SegmentationClassAug"


@pytest.mark.shared
def test_real_lists_join_to_the_published_counts(shared: Path, tmp_path: Path) -> None:
    voc, masks = real_voc(shared, tmp_path)
    train, val = PascalDataset(voc, masks, "train"), PascalDataset(voc, masks, "val")
    assert (len(train.ids), len(val.ids)) == (5953, 1449)
    joined = (shared / "data" / "pascal" / "lists" / "train_5953.txt").read_text().split()
    assert train.ids == tuple(sorted(joined))
    assert not set(train.ids) & set(val.ids)
    with pytest.raises(InputError, match=r"Photo .* does not exist"):
        val.image(val.ids[0])


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "pairs", "images"),
    [
        ("train", (1357, 2007, 3275, 1264), (4760, 4588, 4097, 5108)),
        ("val", (365, 467, 734, 357), (364, 445, 592, 336)),
    ],
)
def test_real_masks_give_the_folds(
    shared: Path, tmp_path: Path, split: str, pairs: tuple[int, ...], images: tuple[int, ...]
) -> None:
    """Every mask counted anew: pairs of image and novel class, and images that train (val: test) each fold."""
    voc, masks = real_voc(shared, tmp_path)
    dataset = open_dataset(f"pascal:{voc}:{masks}@{split}", cache=tmp_path)
    assert isinstance(dataset, PascalDataset)
    expected: dict[int, list[str]] = {label: [] for label in range(1, 21)}
    for image_id in sorted(dataset.ids):
        with Image.open(masks / f"{image_id}.png") as picture:
            pixels = Counter(dict(zip(*np.unique(picture, return_counts=True), strict=True)))
        for label in set(pixels) - {0, 255}:
            if pixels[label] >= 2 * 32 * 32:
                expected[label].append(image_id)
    for label, ids in expected.items():
        assert list(dataset.images(label - 1)) == ids
    folds = [range(5 * fold + 1, 5 * fold + 6) for fold in range(4)]
    for fold, novel in enumerate(folds):
        assert [CLASSES[label - 1] for label in novel] == [CLASSES[c] for c in novel_classes(20, fold)]
        assert sum(len(dataset.images(c)) for c in novel_classes(20, fold)) == pairs[fold]
        used = novel if split == "val" else set(expected) - set(novel)
        assert len({i for label in used for i in expected[label]}) == images[fold]

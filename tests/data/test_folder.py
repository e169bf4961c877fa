from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.folder import FolderDataset
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import write_png


def test_reading(picture_folder: Path) -> None:
    dataset = FolderDataset(picture_folder)
    assert dataset.name == "folder:pictures"
    assert dict(dataset.class_names) == {0: "cup", 1: "fork"}
    # The third cup has 400 target pixels
    assert dataset.images(0) == ("cup/0", "cup/1")
    assert dataset.images(1) == ("fork/0",)
    assert dataset.image("cup/1").shape == (80, 100, 3)
    mask = dataset.mask("cup/1", 0)
    assert np.count_nonzero(mask == 1) == 3600
    assert mask.dtype == np.uint8


def test_other_files_are_left_alone(picture_folder: Path) -> None:
    (picture_folder / ".git").mkdir()
    (picture_folder / "__MACOSX").mkdir()
    (picture_folder / "notes.txt").touch()
    (picture_folder / "cup" / "images" / "Thumbs.db").touch()
    (picture_folder / "cup" / "images" / "._0.jpg").touch()
    assert FolderDataset(picture_folder).images(0) == ("cup/0", "cup/1")


def test_missing_mask_is_named(picture_folder: Path) -> None:
    (picture_folder / "cup" / "masks" / "1.png").rename(picture_folder / "cup" / "masks" / "1_mask.png")
    with pytest.raises(InputError, match=r"1\.jpg has no mask; expected .*masks/1 with one of \.png"):
        FolderDataset(picture_folder)


def test_size_must_be_the_images(picture_folder: Path) -> None:
    write_png(picture_folder / "cup" / "masks" / "1.png", np.ones((100, 80), np.uint8))
    with pytest.raises(InputError, match=r"is 80 x 100 pixels but its image 1\.jpg is 100 x 80"):
        FolderDataset(picture_folder).images(0)


def test_size_is_the_one_after_exif_orientation(picture_folder: Path) -> None:
    path = picture_folder / "fork" / "images" / "0.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(path, exif=exif)
    dataset = FolderDataset(picture_folder)
    assert dataset.mask("fork/0", 1).shape == dataset.image("fork/0").shape[:2] == (80, 100)


def test_damaged_image_is_found_with_its_mask(picture_folder: Path) -> None:
    (picture_folder / "fork" / "images" / "0.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match="not an image"):
        FolderDataset(picture_folder).images(1)


def test_class_without_images(picture_folder: Path) -> None:
    (picture_folder / "fork" / "images" / "0.jpg").unlink()
    with pytest.raises(InputError, match="Class 'fork' has no images"):
        FolderDataset(picture_folder)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_class_without_a_part(picture_folder: Path, part: str) -> None:
    (picture_folder / "fork" / part).rename(picture_folder / "fork" / "other")
    with pytest.raises(InputError, match=f"has no folder '{part}'"):
        FolderDataset(picture_folder)


def test_two_files_of_one_stem(picture_folder: Path) -> None:
    Image.new("RGB", (100, 80)).save(picture_folder / "cup" / "images" / "0.png")
    with pytest.raises(InputError, match="share the name '0'"):
        FolderDataset(picture_folder)


def test_wrong_folders(picture_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"one class; give the folder above it: folder:{picture_folder}"):
        FolderDataset(picture_folder / "cup")
    with pytest.raises(InputError, match="does not exist"):
        FolderDataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no class folders"):
        FolderDataset(tmp_path / "empty")


def test_unknown_names(picture_folder: Path) -> None:
    dataset = FolderDataset(picture_folder)
    with pytest.raises(InputError, match=r"no image 'cup/9'.*Did you mean 'cup/"):
        dataset.image("cup/9")
    with pytest.raises(InputError, match="no class 2; its classes are 0 to 1"):
        dataset.images(2)
    with pytest.raises(InputError, match="'cup/0' of folder:pictures has no mask for class 'fork'"):
        dataset.mask("cup/0", 1)


def lists_of(dataset: FolderDataset) -> list[tuple[str, ...]]:
    return [tuple(dataset.images(c)) for c in dataset.class_names]


def test_lists_are_kept_where_the_caller_says_and_tell_how_far_they_are(picture_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    cache = tmp_path / "cache"
    built = lists_of(FolderDataset(picture_folder, cache=cache, progress=progress))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(list(cache.iterdir())) == 1
    seen.clear()
    assert lists_of(FolderDataset(picture_folder, cache=cache, progress=progress)) == built
    assert seen == [], "read from the file"
    write_png(picture_folder / "cup" / "masks" / "1.png", np.zeros((80, 100), np.uint8))
    assert FolderDataset(picture_folder, cache=cache, progress=progress).images(0) == ("cup/0",)
    assert len(seen) == 4


def test_a_small_folder_stays_as_it_is_and_a_large_one_keeps_its_lists(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(picture_folder.rglob("*"))
    built = lists_of(FolderDataset(picture_folder))
    assert sorted(picture_folder.rglob("*")) == before
    monkeypatch.setattr("ntre_deploy.data.folder.WORTH_KEEPING", 4)
    assert lists_of(FolderDataset(picture_folder)) == built
    (kept,) = picture_folder.glob(".ntre-folder-*.json")
    kept.unlink()
    kept.mkdir()  # it cannot be written any more, which must not matter
    assert lists_of(FolderDataset(picture_folder)) == built


def test_a_cache_that_the_caller_names_and_cannot_be_written_is_an_error(picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        FolderDataset(picture_folder, cache=tmp_path / "file").images(0)

"""Photos as phones write them, and JPEGs that are read smaller than they are."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.imagefile import image_size, read_image, read_reduced


def scene(height: int, width: int) -> np.ndarray:
    """Smooth colours with a white corner."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * y / height, 255 * x / width, 128 + 60 * np.sin((x + y) / 40)], -1).astype(np.uint8)
    picture[: height // 8, : width // 8] = 255
    return picture


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("least", "factor"), [(None, 1), (2000, 1), (600, 1), (400, 2), (200, 4), (20, 8)])
def test_a_jpeg_is_read_as_small_as_is_enough(least: int | None, factor: int, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(scene(602, 801)).save(path, quality=95, exif=exif(orientation))
    whole = read_image(path)
    pixels, size = read_reduced(path, least)
    assert size == whole.shape[:2] == image_size(path)
    height, width = whole.shape[:2]
    assert pixels.shape == (-(-height // factor), -(-width // factor), 3)
    assert max(pixels.shape) >= min(least or 801, 801)
    # a last pixel that is there in part is given whole
    inner = whole[: height // factor * factor, : width // factor * factor]
    small = cv2.resize(inner, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    if orientation == 1:
        assert np.abs(small.astype(int) - pixels[: height // factor, : width // factor]).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_colours_are_read_small_too(mode: str, tmp_path: Path) -> None:
    Image.fromarray(scene(400, 640)).convert(mode).save(tmp_path / "x.jpg")
    pixels, size = read_reduced(tmp_path / "x.jpg", 160)
    assert (pixels.shape, size) == ((100, 160, 3), (400, 640))


def test_what_has_no_smaller_reading_is_read_whole(tmp_path: Path) -> None:
    Image.fromarray(scene(100, 200)).save(tmp_path / "x.png", exif=exif(6))
    pixels, size = read_reduced(tmp_path / "x.png", 10)
    assert (pixels.shape, size) == ((200, 100, 3), (200, 100))


@pytest.mark.parametrize("orientation", [1, 6])
def test_photos_of_iphones_are_read_upright(orientation: int, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "x.HEIC"
    heif.from_pillow(Image.fromarray(scene(96, 160))).save(path, quality=95, exif=exif(orientation).tobytes())
    found = read_image(path)
    assert found.shape[:2] == image_size(path)
    wanted = scene(96, 160) if orientation == 1 else np.rot90(scene(96, 160), -1)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 6
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"x\.HEIC"):
        read_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.fromarray(scene(96, 160)).save(tmp_path / "x.avif", quality=95)
    assert np.abs(read_image(tmp_path / "x.avif").astype(int) - scene(96, 160)).mean() < 6
    (tmp_path / "cut.avif").write_bytes((tmp_path / "x.avif").read_bytes()[:400])
    with pytest.raises(InputError, match=r"cut\.avif"):
        read_image(tmp_path / "cut.avif")


def test_without_what_reads_them_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x18ftypavif" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"x\.heic needs pillow-heif: pip install 'ntre_deploy\[heic\]'"):
        read_image(tmp_path / "x.heic")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InputError, match=r"x\.avif needs a Pillow that reads AVIF: .*ntre_deploy\[heic\]"):
        image_size(tmp_path / "x.avif")

import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.imagefile import MAX_PIXELS, read_image, read_mask, write_png
from ntre_deploy.runtime.masks import ANY, normalise_mask


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 8) + b"IDAT"


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_declared_size_is_refused_before_memory_is_taken(tmp_path: Path, read: object, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(InputError, match=r"bomb\.png (declares|is too large)") as caught:
        read(path)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_cut_off_photos(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png", "webp", "bmp", "tif"):
        whole = tmp_path / f"photo.{ending}"
        Image.fromarray(noise).save(whole)
        assert read_image(whole).shape == (64, 64, 3)
        data = whole.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"damaged or cut off|not an image"):
            read_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", png_header(4, 4), b"\xff\xd8\xff", bytes(4000)]
)
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png"):
        read_image(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="does not exist or is not a file"):
            read_image(path)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (6, (0, -1)), (8, (-1, 0))]
)
def test_exif_orientation(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, exif=exif)
    upright = read_image(path)
    assert upright.shape[:2] == ((20, 10) if orientation >= 5 else (10, 20))
    assert upright[corner].tolist() == [255, 255, 255]
    assert np.count_nonzero(upright) == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "I") else "x.png")
    Image.new(mode, (5, 3)).save(path)
    pixels = read_image(path)
    assert pixels.shape == (3, 5, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_become_8_by_their_upper_byte(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None]
    Image.fromarray(ramp).save(tmp_path / f"x.{suffix}")
    pixels = read_image(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(pixels, np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("mode", "value", "words"), [("F", 0.5, "floating-point"), ("I", 70_000, "16 bits"), ("I", -1, "16 bits")]
)
def test_values_without_a_known_range_are_refused(tmp_path: Path, mode: str, value: float, words: str) -> None:
    Image.new(mode, (5, 3), value).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "x.tif")


def test_one_pixel(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", np.array([[[1, 2, 3]]], np.uint8))
    assert read_image(tmp_path / "x.png").tolist() == [[[1, 2, 3]]]
    write_png(tmp_path / "m.png", np.array([[255]], np.uint8))
    assert read_mask(tmp_path / "m.png").tolist() == [[1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [0, 1]),
        ([0, 255], [0, 1]),
        ([0, 1, 255], [0, 1, 255]),
        ([1, 255], [1, 255]),
        ([0], [0]),
        ([255], [1]),
    ],
)
def test_mask_values(tmp_path: Path, values: list[int], expected: list[int]) -> None:
    array = np.array([values], np.uint8)
    write_png(tmp_path / "m.png", array)
    write_png(tmp_path / "rgb.png", np.repeat(array[..., None], 3, axis=2))
    Image.fromarray(array.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("m.png", "rgb.png", "deep.png"):
        mask = read_mask(tmp_path / name)
        assert mask.tolist() == [expected]
        assert mask.dtype == np.uint8


def test_palette_mask_gives_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 255]], np.uint8), mode="P")
    picture.putpalette([k % 256 for k in range(7, 775)])
    picture.save(tmp_path / "voc.png")
    assert read_mask(tmp_path / "voc.png").tolist() == [[0, 1, 255]]


def test_two_colour_and_grey_alpha_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert read_mask(tmp_path / "bits.png").tolist() == [[0, 1]]
    Image.merge("LA", [Image.fromarray(np.array([[0, 255]], np.uint8))] * 2).save(tmp_path / "la.png")
    assert read_mask(tmp_path / "la.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[[255, 0, 0]]], np.uint8), "colour picture"),
        (np.array([[0, 128, 255]], np.uint8), r"values \[128\]"),
        (np.array([[0, 2, 3, 4, 5, 6]], np.uint8), r"\[2, 3, 4, 5\]"),
        (np.array([[0, 300, 65535]], np.uint16), r"\[300, 65535\].*add @300 .* or @any"),
    ],
)
def test_refused_masks(tmp_path: Path, array: NDArray[np.generic], message: str) -> None:
    Image.fromarray(array).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=message):
        read_mask(tmp_path / "m.png")


# --- masks as tools write them


def disc(size: int = 64) -> NDArray[np.uint8]:
    """uint8 [size, size]: 255 in a disc, greys along its edge."""
    large = np.zeros((8 * size, 8 * size), np.uint8)
    cv2.circle(large, (4 * size, 4 * size), 2 * size, (255,), -1)
    return np.asarray(cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def test_soft_edges_are_halved_and_said(tmp_path: Path) -> None:
    soft = disc()
    write_png(tmp_path / "m.png", soft)
    with pytest.warns(NtreWarning, match=r"m\.png: \d+\.\d% of its pixels are grey"):
        assert np.array_equal(read_mask(tmp_path / "m.png"), soft >= 128)


def test_a_jpeg_of_a_mask_is_its_mask(tmp_path: Path) -> None:
    hard = (disc(128) >= 128).astype(np.uint8)
    for name, picture in (("grey.jpg", hard * 255), ("rgb.jpg", np.repeat(hard[..., None] * 255, 3, axis=2))):
        Image.fromarray(picture).save(tmp_path / name, quality=90)
        with pytest.warns(NtreWarning, match="grey"):
            assert (read_mask(tmp_path / name) != hard).mean() < 0.001


def test_a_jpeg_is_said_to_blur_and_keeps_no_values(tmp_path: Path) -> None:
    sharp = np.zeros((64, 64), np.uint8)
    sharp[:, 32:] = 255  # along its blocks: not one pixel is grey
    Image.fromarray(sharp).save(tmp_path / "m.jpg", quality=100)
    with pytest.warns(NtreWarning, match=r"m\.jpg: JPEG blurs masks, 0\.0% of its pixels are grey; from 128 on"):
        assert np.array_equal(read_mask(tmp_path / "m.jpg"), sharp == 255)
    for choose in (1, 255, ANY):
        with pytest.raises(InputError, match="is a JPEG, which keeps no values to choose from; save it as PNG"):
            read_mask(tmp_path / "m.jpg", choose)
    Image.fromarray(sharp // 255 * 15).save(tmp_path / "class.jpg")
    with pytest.raises(InputError, match=r"is a JPEG of the values 0 to 1\d, which is not black and white"):
        read_mask(tmp_path / "class.jpg")


def test_a_choice_may_stand_behind_the_name(tmp_path: Path) -> None:
    write_png(tmp_path / "m.png", np.array([[0, 7, 15]], np.uint8))
    assert read_mask(tmp_path / "m.png@15").tolist() == [[0, 0, 1]]
    assert read_mask(tmp_path / "m.png@any").tolist() == [[0, 1, 1]]
    with pytest.raises(InputError, match=r"m\.png@x: behind @ stands a value of its pixels, such as @1, or @any"):
        read_mask(tmp_path / "m.png@x")
    with pytest.raises(InputError, match="does not exist"):
        read_mask(tmp_path / "none.png@1")


def test_what_holds_no_values_is_named(tmp_path: Path) -> None:
    for name in ("m.json", "m.txt", "m.xml"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match="is an annotation file and no image; `ntre segment --support` reads"):
            read_mask(tmp_path / name)
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(InputError, match="holds floating-point values"):
        read_mask(tmp_path / "m.tif")
    Image.fromarray(np.array([[(0, 0, 0), (255, 0, 0), (0, 128, 255)]], np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match=r"is a colour picture of 3 colours \(#000000, #0080ff, #ff0000\)"):
        read_mask(tmp_path / "c.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_photo_that_is_cut_out_is_its_own_mask(tmp_path: Path, mode: str) -> None:
    alpha = disc()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if mode == "P":
        # a palette has one transparent colour and no soft edges
        indices = Image.fromarray(np.where(alpha >= 128, 5, 9).astype(np.uint8))
        indices.putpalette([k % 256 for k in range(768)])
        indices.save(tmp_path / "cut.png", transparency=9)
    else:
        photo = photo.convert(mode)
        photo.putalpha(Image.fromarray(alpha))
        photo.save(tmp_path / "cut.png")
    with pytest.warns(NtreWarning, match=r"cut\.png: what is not transparent is the target"):
        assert np.array_equal(read_mask(tmp_path / "cut.png"), alpha >= 128)


def test_transparency_that_hides_nothing_is_no_mask(tmp_path: Path) -> None:
    values = np.array([[0, 255]], np.uint8)
    for alpha in (255, 0):
        picture = Image.merge("LA", [Image.fromarray(values), Image.fromarray(np.full_like(values, alpha))])
        picture.save(tmp_path / "la.png")
        assert read_mask(tmp_path / "la.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("palette", "values", "choose", "expected"),
    [
        (True, [0, 15, 255], None, [0, 1, 255]),
        (True, [0, 15, 7, 255], 7, [0, 0, 1, 255]),
        (True, [0, 15, 7, 255], ANY, [0, 1, 1, 255]),
        (False, [0, 38], None, [0, 1]),
        (False, [0, 38, 75], 75, [0, 0, 1]),
        (False, [0, 38, 75], ANY, [0, 1, 1]),
        (False, [0, 255], 255, [0, 1]),
        (False, [0, 1, 2], 1, [0, 1, 0]),
    ],
)
def test_the_value_of_a_class_mask_is_chosen_or_the_only_one(
    tmp_path: Path, palette: bool, values: list[int], choose: int | None, expected: list[int]
) -> None:
    picture = Image.fromarray(np.array([values], np.uint8))
    if palette:
        picture.putpalette([k % 256 for k in range(7, 775)])
    picture.save(tmp_path / "m.png")
    with nullcontext() if choose is not None else pytest.warns(NtreWarning, match="its one value beside 0"):
        assert read_mask(tmp_path / "m.png", choose).tolist() == [expected]


def test_instances_of_16_bits_are_chosen(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300, 1001]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", 1001).tolist() == [[0, 0, 1]]
    with pytest.raises(InputError, match=r"has no pixel of the value 7; it holds \[0, 300, 1001\]"):
        read_mask(tmp_path / "m.png", 7)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 1), (0, 4), (4, 0)])
def test_normalise_mask_wants_two_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="mine has shape"):
        normalise_mask(np.zeros(shape, np.uint8), "mine")


def test_normalise_mask_refuses_odd_values() -> None:
    for odd in (np.array([[np.nan]]), np.array([[0.5]]), np.array([[-1]])):
        with pytest.raises(InputError, match="mine holds the values"):
            normalise_mask(odd, "mine")


masks = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 255])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(mask=masks)
def test_mask_round_trip(tmp_path: Path, mask: NDArray[np.uint8]) -> None:
    write_png(tmp_path / "m.png", mask)
    read = read_mask(tmp_path / "m.png")
    assert np.array_equal(read, mask if 1 in mask else mask // 255)
    assert np.array_equal(normalise_mask(read == 1, "mine"), read == 1)


def test_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        write_png(tmp_path / "file" / "x.png", np.zeros((2, 2), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""Images as people hold them: every form gives the same pixels, and what can mean two things is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.pictures import as_image, as_mask

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
MASK = (RGB[..., 0] > 127).astype(np.uint8)
CHW = np.ascontiguousarray(RGB.transpose(2, 0, 1))


class Exchanged:
    """What knows DLPack alone, as arrays of some frameworks do."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class OnDevice:
    """As CuPy's arrays are: no way to the host but `get`."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def get(self) -> np.ndarray:
        return self.array


def floats(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(
    "convert",
    [
        lambda: RGB,
        lambda: np.asfortranarray(RGB),
        lambda: CHW,
        lambda: floats(RGB),
        lambda: floats(CHW).astype(np.float64),
        lambda: torch.from_numpy(RGB),
        lambda: torch.from_numpy(CHW),
        lambda: torch.from_numpy(floats(CHW)),
        lambda: torch.from_numpy(floats(CHW)).requires_grad_(),
        lambda: torch.from_numpy(RGB).permute(2, 0, 1),
        lambda: Image.fromarray(RGB),
        lambda: Image.fromarray(RGB).convert("RGBA"),
        lambda: Exchanged(CHW),
        lambda: OnDevice(RGB),
    ],
)
def test_every_form_gives_the_same_pixels(convert: Callable[[], object]) -> None:
    given = convert()
    found = as_image(given)
    np.testing.assert_array_equal(found, RGB)
    assert found.dtype == np.uint8
    assert (found is given) == isinstance(given, np.ndarray) or given is not RGB


def test_an_array_of_the_right_form_is_not_copied() -> None:
    view = RGB[::-1, ::2]
    assert as_image(view) is view


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    found = as_image(torch.from_numpy(floats(CHW)).to(dtype))
    assert np.abs(found.astype(int) - RGB).max() <= (1 if dtype != torch.float64 else 0)


def test_files_and_pil_images_are_read_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=turned)
    upright = np.rot90(RGB, -1)
    np.testing.assert_array_equal(as_image(tmp_path / "a.png"), upright)
    np.testing.assert_array_equal(as_image(str(tmp_path / "a.png")), upright)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(as_image(image), upright)
    np.testing.assert_array_equal(as_image(Image.fromarray(MASK * 255)), np.repeat(MASK[..., None] * 255, 3, axis=2))
    deep = Image.fromarray(np.full((2, 2), 65_535, np.uint16))
    assert as_image(deep).tolist() == [[[255] * 3] * 2] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 9, 3), "may be [H, W, 3] or [3, H, W]"),
        (torch.zeros(1, 3, 9, 9), "float32 [1, 3, 9, 9]"),
        (torch.zeros(9, 9), "float32 [9, 9]"),
        (torch.zeros(4, 9, 9, dtype=torch.uint8), "uint8 [4, 9, 9]"),
        (torch.zeros(3, 9, 9, dtype=torch.int32), "int32 [9, 9, 3]"),
        (torch.full((3, 9, 9), 2.0), "holds floats from 2 to 2; 0 to 1 is expected"),
        (torch.full((3, 9, 9), -1.0), "holds floats from -1"),
        (torch.full((3, 9, 9), float("nan")), "holds floats from nan"),
        (torch.zeros(3, 0, 9), "0 pixels"),
        (torch.zeros(3, 9, 9, device="meta"), "cannot be copied to an array"),
        (np.zeros((9, 9, 4), np.uint8), "uint8 [9, 9, 4]"),
        (np.zeros((9, 9, 3), np.uint16), "uint16 [9, 9, 3]"),
        (np.zeros((9, 9, 3), bool), "bool [9, 9, 3]"),
        (np.zeros((0, 9, 3), np.uint8), "0 pixels"),
        ([[1, 2], [3, 4]], "is list"),
        (None, "is NoneType"),
        (Image.new("F", (4, 4)), "floating-point"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_in_one_line(given: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        as_image(given)
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


def test_an_array_whose_sides_can_mean_two_things_is_as_documented() -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 2, 3), dtype=np.uint8)
    assert as_image(image) is image
    np.testing.assert_array_equal(as_image(floats(image)), image)


@pytest.mark.parametrize(
    "convert",
    [
        lambda: MASK,
        lambda: torch.from_numpy(MASK),
        lambda: torch.from_numpy(MASK)[None],
        lambda: torch.from_numpy(MASK).bool(),
        lambda: Image.fromarray(MASK),
    ],
)
def test_masks_come_in_every_form_too(convert: Callable[[], object]) -> None:
    np.testing.assert_array_equal(as_mask(convert()).astype(np.uint8), MASK)


def test_a_mask_s_file_is_read_and_a_colour_image_is_none(tmp_path: Path) -> None:
    Image.fromarray(MASK * 255).save(tmp_path / "m.png")
    np.testing.assert_array_equal(as_mask(tmp_path / "m.png"), MASK)
    with pytest.raises(InputError, match="one channel"):
        as_mask(Image.fromarray(RGB))


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, numpy as np; from ntre_deploy.runtime.results.result import Result; "
        "from ntre_deploy.runtime.pictures import as_image; as_image(np.zeros((3, 4, 5), np.float32)); "
        "Result(np.ones((4, 4), np.uint8), ['a']).to_coco(); "
        "assert not {'torch', 'supervision', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)

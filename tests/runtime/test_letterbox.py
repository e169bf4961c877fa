"""Letterbox and normalisation, against torch and against geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import MAX_SIDE, Letterbox, check_image, prepare_image, prepare_mask

SPEC = InputSpec(65)
RNG = np.random.default_rng
sides = st.integers(1, MAX_SIDE)
few = st.integers(1, 40)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return RNG(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- geometry


@settings(deadline=None)
@given(sides, sides, st.integers(8, 1025))
def test_letterbox_fills_the_square_on_the_longer_side_and_keeps_the_aspect_within_a_pixel(
    height: int, width: int, size: int
) -> None:
    box = Letterbox.fit(height, width, size)
    assert (box.size, box.height, box.width) == (size, height, width)
    assert 1 <= box.inner_height <= size
    assert 1 <= box.inner_width <= size
    assert max(box.inner_height, box.inner_width) == size
    exact = size / max(height, width)
    assert abs(box.inner_height - max(1, height * exact)) <= 0.5 + 1e-9
    assert abs(box.inner_width - max(1, width * exact)) <= 0.5 + 1e-9


# --- the input of the network


@given(st.integers(1, 200), st.integers(1, 200))
@settings(deadline=None, max_examples=40)
def test_everything_outside_the_image_is_zero(height: int, width: int) -> None:
    # white is nowhere zero after normalisation, so the zeros are the padding and nothing else
    pixels, box = prepare_image(np.full((height, width, 3), 255, np.uint8), SPEC)
    assert (pixels[:, : box.inner_height, : box.inner_width] > 2).all()
    assert not pixels[:, box.inner_height :].any()
    assert not pixels[:, :, box.inner_width :].any()


def test_an_image_of_the_input_size_is_only_normalised() -> None:
    image = photo(65, 65)
    pixels, _ = prepare_image(image, SPEC)
    wanted = (image.astype(np.float64) - IMAGENET_MEAN) / IMAGENET_STD
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, wanted.transpose(2, 0, 1), atol=1e-6)


def test_mean_and_std_of_the_spec_are_used() -> None:
    image = photo(33, 33)
    pixels, _ = prepare_image(image, InputSpec(33, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    wanted = (image.astype(np.float64) - (1, 2, 3)) / (4, 5, 6)
    np.testing.assert_allclose(pixels, wanted.transpose(2, 0, 1), atol=1e-5)


def test_a_moderate_resize_aligns_pixel_centres_as_torch_does() -> None:
    image = photo(40, 52)
    pixels, box = prepare_image(image, SPEC)
    assert (box.inner_height, box.inner_width) == (50, 65)
    wanted = F.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float64)), (50, 65), mode="bilinear"
    )
    got = pixels[:, :50].transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    # OpenCV interpolates bytes in fixed point and rounds to whole values
    assert np.abs(got - wanted[0].numpy().transpose(1, 2, 0)).max() <= 1.01


def test_a_strong_reduction_averages_areas() -> None:
    image = photo(260, 260)  # four input pixels to one; bilinear sampling would read a quarter of them
    pixels, _ = prepare_image(image, SPEC)
    wanted = image.reshape(65, 4, 65, 4, 3).mean((1, 3))
    got = pixels.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    assert np.abs(got - wanted).max() <= 0.51


def test_views_give_what_their_copies_give() -> None:
    view = photo(50, 70)[::-1, ::2, ::-1]
    np.testing.assert_array_equal(prepare_image(view, SPEC)[0], prepare_image(view.copy(), SPEC)[0])


@pytest.mark.parametrize(("height", "width"), [(1, MAX_SIDE), (MAX_SIDE, 1)])
def test_the_longest_side_that_is_accepted_is_processed(height: int, width: int) -> None:
    pixels, box = prepare_image(np.full((height, width, 3), 255, np.uint8), SPEC)
    assert (pixels[:, : box.inner_height, : box.inner_width] > 2).all()
    labels = label_map(np.stack([np.zeros((9, 9)), np.ones((9, 9))])[None].astype(np.float32), box)
    assert labels.shape == (height, width)
    assert labels.all()


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((4, 4, 3), np.int8), r"int8 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \[3, 4, 4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"uint8 \[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((4, 0, 3), np.uint8), "0 x 4 pixels"),
        (np.zeros((MAX_SIDE + 1, 1, 3), np.uint8), "1 x 32768 pixels; a side is 1 to 32767"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
        ("photo.jpg", "str"),
    ],
)
def test_what_is_no_rgb_image_is_refused_with_what_was_given(image: object, given: str) -> None:
    with pytest.raises(InputError, match=f"^Photo (is|has) {given}") as caught:
        check_image(image, "Photo")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=given):
        prepare_image(image, SPEC)  # type: ignore[arg-type]


# --- support masks


def test_only_one_is_the_target() -> None:
    mask = RNG(0).choice(np.array([0, 1, 255], np.uint8), (65, 65))
    np.testing.assert_array_equal(prepare_mask(mask, SPEC), (mask == 1).astype(np.float32))


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_a_mask_is_sampled_at_the_nearest_pixel_and_padded_with_zeros(height: int, width: int) -> None:
    mask = RNG(height * 301 + width).integers(0, 2, (height, width), dtype=np.uint8)
    box = Letterbox.fit(height, width, 65)
    got = prepare_mask(mask, SPEC)
    assert got.dtype == np.float32
    assert got.shape == (65, 65)
    assert not got[box.inner_height :].any()
    assert not got[:, box.inner_width :].any()
    y = (np.arange(box.inner_height) + 0.5) * height / box.inner_height
    x = (np.arange(box.inner_width) + 0.5) * width / box.inner_width
    wanted = mask[np.floor(y).astype(int)][:, np.floor(x).astype(int)]
    # a centre that falls on the border of two pixels may go to either
    sure = (np.abs(y - np.round(y)) > 1e-3)[:, None] & (np.abs(x - np.round(x)) > 1e-3)[None, :]
    inner = got[: box.inner_height, : box.inner_width]
    np.testing.assert_array_equal(inner[sure], wanted[sure])


def test_mask_and_image_are_laid_on_each_other() -> None:
    # a bright square on black, and its mask: in the input the mask covers what is bright
    image, mask = np.zeros((90, 140, 3), np.uint8), np.zeros((90, 140), np.uint8)
    image[20:70, 50:100], mask[20:70, 50:100] = 255, 1
    pixels, _ = prepare_image(image, SPEC)
    bright = pixels[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0] > 127.5
    bright[Letterbox.fit(90, 140, 65).inner_height :] = False  # the mean colour of the padding
    target = prepare_mask(mask, SPEC) == 1
    outline = bright.sum() ** 0.5 * 4
    assert target.sum() > 400
    assert (bright != target).sum() <= outline / 2

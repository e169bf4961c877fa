"""Letterbox, normalisation and the label map, against torch and against geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_CLASSES,
    MAX_SIDE,
    InputSpec,
    Letterbox,
    back_map,
    check_image,
    label_map,
    linear_map,
    prepare_image,
    prepare_mask,
)

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


@settings(deadline=None)
@given(few, few)
def test_linear_map_is_torch_resizing_with_aligned_corners(n_out: int, n_in: int) -> None:
    values = torch.from_numpy(RNG(n_out * 41 + n_in).standard_normal((1, 3, n_in)).astype(np.float32))
    wanted = F.interpolate(values, n_out, mode="linear", align_corners=True)[0].numpy()
    np.testing.assert_allclose(values[0].numpy() @ linear_map(n_out, n_in).T, wanted, atol=2e-5)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 20), st.integers(1, 12))
def test_back_map_is_the_two_torch_resizes_one_after_the_other(
    length: int, inner: int, padding: int, features: int
) -> None:
    size = inner + padding
    values = torch.from_numpy(RNG(length * 61 + inner).standard_normal((1, 3, features)).astype(np.float32))
    at_input = F.interpolate(values, size, mode="linear", align_corners=True)[..., :inner]
    wanted = F.interpolate(at_input, length, mode="linear", align_corners=False)[0].numpy()
    matrix = back_map(length, inner, size, features)
    assert matrix.shape == (length, features)
    np.testing.assert_allclose(values[0].numpy() @ matrix.T, wanted, atol=5e-5)


# --- the label map


@pytest.mark.parametrize(
    ("height", "width"), [(1, 500), (500, 1), (1, 1), (7, 3), (131, 97), (2, 1025), (2049, 2), (65, 65)]
)
@pytest.mark.parametrize("classes", [1, 3])
def test_the_label_map_has_the_size_of_the_image(height: int, width: int, classes: int) -> None:
    pixels, box = prepare_image(photo(height, width), SPEC)
    assert pixels.shape == (3, 65, 65)
    labels = label_map(RNG(1).standard_normal((classes, 2, 9, 9)).astype(np.float32), box)
    assert labels.shape == (height, width)
    assert labels.dtype == np.uint8
    assert labels.max() <= classes


@pytest.mark.parametrize(("height", "width"), [(700, 900), (3, 2500), (2500, 3)])
@pytest.mark.parametrize("classes", [1, 4])
def test_a_large_label_map_is_the_whole_product(height: int, width: int, classes: int) -> None:
    box = Letterbox.fit(height, width, 161)
    logits = RNG(height).standard_normal((classes, 2, 21, 21)).astype(np.float32)
    rows, columns = back_map(height, box.inner_height, 161, 21), back_map(width, box.inner_width, 161, 21)
    margins = rows @ (logits[:, 1] - logits[:, 0]) @ columns.T
    best = margins.max(axis=0)
    wanted = np.where(best > 0, margins.argmax(axis=0) + 1, 0)
    rivals = np.sort(np.concatenate([margins, np.zeros((1, height, width), np.float32)]), axis=0)
    clear = rivals[-1] - rivals[-2] > 1e-5  # products of other sizes round otherwise
    assert clear.mean() > 0.99
    assert (label_map(logits, box) == wanted)[clear].all()


def feature_positions(features: int, size: int, length: int, inner: int) -> np.ndarray:
    """Where the features lie along one axis of the original image, in pixels."""
    at_input = np.arange(features) * (size - 1) / (features - 1)
    return (at_input + 0.5) * length / inner - 0.5


@settings(deadline=None, max_examples=60)
@given(
    st.integers(5, 300),
    st.integers(5, 300),
    st.floats(0, 2 * np.pi),
    st.floats(0.35, 0.65),
    st.floats(0.35, 0.65),
)
def test_an_edge_drawn_in_the_image_comes_back_at_its_place(
    height: int, width: int, angle: float, at_y: float, at_x: float
) -> None:
    # A linear function of the original's coordinates is reproduced exactly by bilinear maps, whatever the scale, so a
    # straight edge must come back on the very pixels; only float32 rounding is allowed (1e-3 of a pixel is ample).
    # Beyond the centres of the outermost input pixels the maps clamp: those rows and columns are left out.
    box = Letterbox.fit(height, width, 65)
    y = feature_positions(9, 65, height, box.inner_height)[:, None]
    x = feature_positions(9, 65, width, box.inner_width)[None, :]
    normal = np.sin(angle), np.cos(angle)
    centre = at_y * height, at_x * width

    def plane(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return normal[0] * (y - centre[0]) + normal[1] * (x - centre[1])

    logits = np.zeros((1, 2, 9, 9), np.float32)
    logits[0, 1] = plane(y, x)
    truth = plane(np.arange(height)[:, None], np.arange(width)[None, :])
    clamped_y = int(np.ceil(0.5 * height / box.inner_height))
    clamped_x = int(np.ceil(0.5 * width / box.inner_width))
    inside = np.zeros(truth.shape, bool)
    inside[clamped_y : height - clamped_y, clamped_x : width - clamped_x] = True
    sure = inside & (np.abs(truth) > 1e-3)
    assert sure.any() or min(height, width) < 20
    labels = label_map(logits, box)
    np.testing.assert_array_equal(labels[sure], truth[sure] > 0)


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 400), st.integers(20, 400), st.floats(0.15, 0.85))
def test_a_half_plane_seen_by_the_features_comes_back_within_half_a_feature_cell(
    height: int, width: int, share: float
) -> None:
    # the features on both sides of the edge are one cell apart and the sign changes half way between them, so the
    # edge is off by half a cell at most; half a pixel more because labels live on pixel centres, and half an input
    # pixel more where the sign would change beyond the centre of the last input pixel
    box = Letterbox.fit(height, width, 65)
    x = feature_positions(9, 65, width, box.inner_width)
    edge = share * (width - 1)
    assert x[0] <= edge < x[-1]
    logits = np.zeros((1, 2, 9, 9), np.float32)
    logits[0, 1] = np.where(x > edge, 1, -1)[None, :]
    labels = label_map(logits, box)
    assert (labels == labels[:1]).all()
    assert (np.diff(labels[0].astype(int)) >= 0).all()
    found = np.count_nonzero(labels[0] == 0) - 0.5
    assert abs(found - edge) <= (x[1] - x[0]) / 2 + 0.5 + 0.5 * width / box.inner_width


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(50, 80), (1300, 20)])
def test_the_largest_positive_margin_wins(classes: int, height: int, width: int) -> None:
    logits = RNG(classes).standard_normal((classes, 2, 9, 9)).astype(np.float32)
    box = Letterbox.fit(height, width, 65)
    resized = F.interpolate(torch.from_numpy(logits).double(), (65, 65), mode="bilinear", align_corners=True)
    inner = resized[..., : box.inner_height, : box.inner_width]
    full = F.interpolate(inner, (height, width), mode="bilinear", align_corners=False).numpy()
    margins = np.concatenate([np.zeros((1, height, width)), full[:, 1] - full[:, 0]])
    top = np.sort(margins, axis=0)
    decided = top[-1] - top[-2] > 1e-4  # float32 against float64
    assert decided.mean() > 0.99
    labels = label_map(logits, box)
    assert len(np.unique(labels)) > 2
    np.testing.assert_array_equal(labels[decided], margins.argmax(0)[decided])


def test_equal_margins_go_to_the_first_class_and_a_zero_margin_to_the_background() -> None:
    logits = np.zeros((2, 2, 9, 9), np.float32)
    box = Letterbox.fit(30, 40, 65)
    assert not label_map(logits, box).any()
    assert not label_map(logits[:1], box).any()
    logits[:, 1] = 1
    assert (label_map(logits, box) == 1).all()


def test_255_classes_fit_and_256_are_refused() -> None:
    box = Letterbox.fit(4, 4, 65)
    logits = np.zeros((MAX_CLASSES + 1, 2, 2, 2), np.float32)
    logits[MAX_CLASSES - 1, 1] = 1
    assert (label_map(logits[:MAX_CLASSES], box) == 255).all()
    with pytest.raises(InputError, match=r"256 classes.*1 to 255"):
        label_map(logits, box)
    with pytest.raises(InputError, match="0 classes"):
        label_map(logits[:0], box)


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

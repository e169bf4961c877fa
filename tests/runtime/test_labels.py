"""The label map, against torch and against geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import MAX_CLASSES, back_map, label_map, linear_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image

RNG = np.random.default_rng
few = st.integers(1, 40)


# --- the way back


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
    pixels, box = prepare_image(np.zeros((height, width, 3), np.uint8), InputSpec(65))
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

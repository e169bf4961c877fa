import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.data.transforms import Augmentation, augment
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD

Pixels = NDArray[np.uint8]
STILL = Augmentation(
    scale=(1, 1), rotation_probability=0, blur_probability=0, flip_probability=0, keep=0, fill=(0, 0, 0)
)
STEP = 4  # levels per pixel of the coordinate picture


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def coordinates(height: int, width: int) -> Pixels:
    """A picture that tells where a pixel came from: red is 4 x, green is 4 y, blue is 255 (padding has 0)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([STEP * x, STEP * y, np.full_like(x, 255)], axis=-1).astype(np.uint8)


def steps(**changes: Any) -> Augmentation:
    return dataclasses.replace(STILL, **changes)


sides = st.integers(3, 60)
seeds = st.integers(0, 2**32 - 1)
# The steps that sample anew, one by one: two in a row may be a pixel apart between nearest and bilinear
single_steps = st.one_of(
    st.builds(lambda factor: steps(scale=(factor, factor)), st.floats(0.5, 2)),
    st.builds(lambda angle: steps(rotation=(angle, angle), rotation_probability=1), st.floats(-180, 180)),
    st.builds(lambda share: steps(flip_probability=share), st.sampled_from([0.0, 1.0])),
)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 70), seed=seeds, options=single_steps)
def test_every_pixel_keeps_its_label(height: int, width: int, size: int, seed: int, options: Augmentation) -> None:
    mask = rng(seed).choice(np.array([0, 1, 255], np.uint8), (height, width))
    image, labels = augment(coordinates(height, width), mask, size, rng(seed), options)
    # Where no padding was mixed in, colours are coordinates
    inside = image[..., 2] == 255
    x, y = (image[..., channel].astype(float) / STEP for channel in (0, 1))
    # Half-way between two pixels either is the nearest: the colours are rounded, and OpenCV's shares have 5 bits
    clear = inside & (np.abs(x % 1 - 0.5) > 0.2) & (np.abs(y % 1 - 0.5) > 0.2)
    source = mask[np.rint(y).astype(int).clip(0, height - 1), np.rint(x).astype(int).clip(0, width - 1)]
    assert np.array_equal(labels[clear], source[clear])
    # Nothing but padding is black
    assert (labels[image[..., 2] == 0] == 255).all()


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 70), seed=seeds, data=st.data())
def test_all_steps_together(height: int, width: int, size: int, seed: int, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), np.uint8)
    mask[top:, left:] = 1
    picture = coordinates(height, width)
    options = Augmentation(rotation_probability=1, blur_probability=0, fill=(0, 0, 0))
    image, labels = augment(picture, mask, size, rng(seed), options)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((size, size), np.uint8)
    assert set(np.unique(labels)) <= {0, 1, 255}
    assert (labels == 1).any()
    x, y, inside = image[..., 0] / STEP, image[..., 1] / STEP, image[..., 2] == 255
    assert (labels[inside & (x > left + 1.3) & (y > top + 1.3)] == 1).all()
    assert (labels[inside & ((x < left - 1.3) | (y < top - 1.3))] == 0).all()
    assert (labels[image[..., 2] == 0] == 255).all()


@settings(max_examples=50, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 70), seed=seeds)
def test_the_generator_alone_decides(height: int, width: int, size: int, seed: int) -> None:
    picture, mask = coordinates(height, width), (coordinates(height, width)[..., 0] > 90).astype(np.uint8)
    picture.setflags(write=False)
    mask.setflags(write=False)
    a, b = augment(picture, mask, size, rng(seed)), augment(picture, mask, size, rng(seed))
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    assert not np.shares_memory(a[0], picture)
    assert not np.shares_memory(a[1], mask)
    assert a[0].flags.c_contiguous
    assert a[1].flags.c_contiguous


def test_draws_differ() -> None:
    picture, mask = coordinates(60, 60), np.ones((60, 60), np.uint8)
    generator = rng(0)
    assert len({augment(picture, mask, 40, generator)[0].tobytes() for _ in range(20)}) == 20


def test_padding_lies_around_the_image() -> None:
    picture, mask = coordinates(10, 40), np.zeros((10, 40), np.uint8)
    image, labels = augment(picture, mask, 21, rng(1), steps(fill=(1, 2, 3)))
    assert (labels[5:15] == 0).all()
    assert (labels[:5] == 255).all()
    assert (labels[15:] == 255).all()
    assert (image[labels == 255] == (1, 2, 3)).all()
    offset = int(image[5, 0, 0]) // STEP
    assert np.array_equal(image[5:15], picture[:, offset : offset + 21])


def test_default_padding_is_the_mean_colour() -> None:
    image, labels = augment(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), 33, rng(0))
    assert (labels[:8] == 255).all()
    normalised = (image[0, 0] - np.array(IMAGENET_MEAN)) / IMAGENET_STD
    assert np.abs(normalised).max() < 0.01


def test_rotation_brings_in_corners_that_are_ignored() -> None:
    picture, mask = np.full((60, 60, 3), 200, np.uint8), np.ones((60, 60), np.uint8)
    turn = steps(rotation=(10, 10), rotation_probability=1, fill=(9, 8, 7))
    image, labels = augment(picture, mask, 60, rng(0), turn)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert labels[corner] == 255
        assert image[corner].tolist() == [9, 8, 7]
    assert (labels[20:40, 20:40] == 1).all()
    # Four triangles with legs of about 60 tan(5 degrees) and what is left of 60
    assert 0.06 < np.mean(labels == 255) < 0.09


def test_angles_count_counter_clockwise() -> None:
    mask = np.zeros((101, 101), np.uint8)
    mask[50, 90] = 1
    picture = np.repeat(mask[..., None], 3, axis=2) * np.uint8(255)
    turn = steps(rotation=(10, 10), rotation_probability=1)
    image, labels = augment(picture, mask, 101, rng(0), turn)
    angle = np.radians(10)
    expected = (round(50 - 40 * np.sin(angle)), round(50 + 40 * np.cos(angle)))
    assert np.argwhere(labels == 1).tolist() == [list(expected)]
    assert np.unravel_index(image[..., 0].argmax(), (101, 101)) == expected


@pytest.mark.parametrize(("angle", "quarters"), [(90, 1), (180, 2), (-90, 3)])
def test_quarter_turns_are_exact(angle: int, quarters: int) -> None:
    picture, mask = coordinates(40, 40), (coordinates(40, 40)[..., 0] > 90).astype(np.uint8)
    turn = steps(rotation=(angle, angle), rotation_probability=1)
    image, labels = augment(picture, mask, 40, rng(0), turn)
    assert np.array_equal(image, np.rot90(picture, quarters))
    assert np.array_equal(labels, np.rot90(mask, quarters))


def test_scale_changes_the_size() -> None:
    picture, mask = coordinates(20, 30), np.ones((20, 30), np.uint8)
    for factor, shape in ((2.0, (40, 60)), (0.5, (10, 15)), (1.1, (22, 33))):
        _, labels = augment(picture, mask, 64, rng(0), steps(scale=(factor, factor)))
        assert np.count_nonzero((labels == 1).any(axis=1)) == shape[0]
        assert np.count_nonzero((labels == 1).any(axis=0)) == shape[1]


def test_blur_touches_the_image_alone() -> None:
    picture = np.zeros((15, 15, 3), np.uint8)
    picture[7, 7] = 255
    mask = (picture[..., 0] > 0).astype(np.uint8)
    image, labels = augment(picture, mask, 15, rng(0), steps(blur_probability=1))
    assert np.array_equal(labels, mask)
    assert np.argwhere(image[..., 0] > 0).min(axis=0).tolist() == [5, 5]
    assert np.argwhere(image[..., 0] > 0).max(axis=0).tolist() == [9, 9]
    assert np.array_equal(image, image[::-1])
    assert np.array_equal(image, image.transpose(1, 0, 2))
    assert int(image[..., 0].sum()) == pytest.approx(255, abs=25)
    flat, _ = augment(np.full_like(picture, 77), mask, 15, rng(0), steps(blur_probability=1))
    assert (flat == 77).all()


def test_half_of_the_images_are_turned_blurred_and_flipped() -> None:
    picture, mask = coordinates(31, 31), np.ones((31, 31), np.uint8)
    picture[15, 15] = 0
    for name in ("rotation_probability", "blur_probability", "flip_probability"):
        changed = [
            not np.array_equal(augment(picture, mask, 31, rng(seed), steps(**{name: 0.5}))[0], picture)
            for seed in range(300)
        ]
        assert 110 < sum(changed) < 190


def test_scales_and_offsets_fill_their_ranges() -> None:
    picture, mask = coordinates(60, 60), np.ones((60, 60), np.uint8)
    widths = [
        np.count_nonzero((augment(picture, mask, 70, rng(seed), steps(scale=(0.9, 1.1)))[1] == 1)[35])
        for seed in range(200)
    ]
    assert (min(widths), max(widths)) == (54, 66)
    corners = {tuple(augment(picture, mask, 56, rng(seed), STILL)[0][0, 0, :2] // STEP) for seed in range(400)}
    assert corners == {(x, y) for x in range(5) for y in range(5)}


@settings(max_examples=100, deadline=None)
@given(y=st.integers(0, 79), x=st.integers(0, 59), size=st.integers(1, 40), seed=seeds)
def test_a_single_target_pixel_is_never_lost(y: int, x: int, size: int, seed: int) -> None:
    mask = np.zeros((80, 60), np.uint8)
    mask[y, x] = 1
    options = Augmentation(rotation=(-45, 45), rotation_probability=1, scale=(0.3, 1.1), crop_tries=1)
    _, labels = augment(coordinates(60, 60).repeat(2, axis=0)[:80], mask, size, rng(seed), options)
    assert (labels == 1).any()


def test_crops_are_tried_until_the_target_is_kept() -> None:
    picture, mask = np.zeros((20, 60, 3), np.uint8), np.zeros((20, 60), np.uint8)
    mask[:, 20:40] = 1

    def kept(tries: int, keep: float) -> list[int]:
        options = steps(keep=keep, crop_tries=tries)
        return [int((augment(picture, mask, 20, rng(seed), options)[1] == 1).sum()) for seed in range(60)]

    # One of 41 offsets keeps all of the target
    assert 100 < np.mean(kept(1, 1.0)) < 300
    assert kept(600, 1.0) == [400] * 60
    assert 200 <= min(kept(600, 0.5)) < 300
    # The best of the tries is taken, not the last: more tries never keep less
    assert all(few <= many for few, many in zip(kept(4, 1.0), kept(8, 1.0), strict=True))


def test_images_without_target_pass() -> None:
    _, labels = augment(coordinates(30, 30), np.zeros((30, 30), np.uint8), 20, rng(0))
    assert not (labels == 1).any()


def test_defaults_are_the_released_ranges() -> None:
    options = Augmentation()
    assert (options.scale, options.rotation, options.blur_kernel) == ((0.9, 1.1), (-10.0, 10.0), 5)
    assert {options.rotation_probability, options.blur_probability, options.flip_probability} == {0.5}
    assert (options.keep, options.crop_tries) == (0.85, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale is \(0.0, 1.0\); 0 < least <= greatest is expected"),
        ({"scale": (1.1, 0.9)}, "scale"),
        ({"scale": (1.0, float("inf"))}, "scale"),
        ({"scale": (float("nan"), 1.0)}, "scale"),
        ({"rotation": (10, -10)}, "rotation"),
        ({"rotation": (-181, 0)}, "rotation"),
        ({"rotation_probability": 1.1}, "rotation_probability is 1.1; 0 to 1 is expected"),
        ({"blur_probability": -0.1}, "blur_probability"),
        ({"flip_probability": float("nan")}, "flip_probability"),
        ({"blur_kernel": 4}, "blur_kernel is 4; an odd number"),
        ({"blur_kernel": -1}, "blur_kernel"),
        ({"keep": 2}, "keep"),
        ({"crop_tries": 0}, "crop_tries"),
        ({"fill": (0, 0, 256)}, "fill"),
        ({"fill": (0, 0)}, "fill"),
    ],
)
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"Augmentation: {message}"):
        Augmentation(**change)


PICTURE, MASK = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "size", "message"),
    [
        (PICTURE.astype(np.float32), MASK, 5, r"The image is float32 \[8, 9, 3\]; a uint8 RGB array"),
        (PICTURE[..., 0], MASK, 5, r"The image is uint8 \[8, 9\]"),
        (PICTURE[:0], MASK[:0], 5, r"The image is uint8 \[0, 9, 3\]"),
        (PICTURE, MASK.astype(np.int64), 5, r"The mask is int64 \[8, 9\]; a uint8 array"),
        (PICTURE, MASK[..., None], 5, r"The mask is uint8 \[8, 9, 1\]"),
        (PICTURE, MASK[:7], 5, "The mask is 9 x 7 pixels but its image is 9 x 8"),
        (PICTURE, MASK, 0, "A crop of 0 pixels is not possible"),
        (PICTURE, MASK, 40_000, "A crop of 40000 pixels"),
        (np.zeros((1, 30_000, 3), np.uint8), np.zeros((1, 30_000), np.uint8), 5, "30000 x 1 pixels; at most 32767"),
    ],
)
def test_bad_arrays(image: Any, mask: Any, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        augment(image, mask, size, rng(0))


def test_no_torch() -> None:
    code = "import sys, ntre_deploy.data.transforms, ntre_deploy.data.pascal; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Pre-processing: the kernel is its NumPy reference bit for bit, and both are prepare_image within a grey level."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.kernels import reference
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image

Memory = Callable[[], Any]  # conftest.Arrays

# height, width, input size
SIZES = [
    (1, 1, 33), (1, 700, 33), (700, 1, 33), (2, 2, 65), (37, 100, 65), (65, 65, 65), (130, 87, 65), (66, 131, 65),
    (131, 66, 65), (260, 195, 65), (333, 500, 65), (3, 2000, 41), (2, 32767, 9), (57, 113, 1), (48, 64, 100),
]  # fmt: skip


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(
    kernels: Kernels,
    memory: Memory,
    image: NDArray[np.uint8],
    spec: InputSpec,
    *,
    half: bool,
    shift: int = 0,
    gap: int = 0,
) -> NDArray[Any]:
    arrays = memory()
    height, width, _ = image.shape
    box = Letterbox.fit(height, width, spec.size)
    rows = np.zeros((height, 3 * width + gap), np.uint8)
    rows[:, : 3 * width] = image.reshape(height, -1)
    dtype, shape = (np.float16 if half else np.float32), (3, spec.size, spec.size)
    out = arrays.room(shape, dtype)
    kernels.prepare(arrays.put(rows, shift), 3 * width + gap, box, spec, out, half=half)
    return arrays.get(out, shape, dtype)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_the_kernel_is_the_reference(kernels: Kernels, memory: Memory, height: int, width: int, size: int) -> None:
    image, spec = photo(height, width), InputSpec(size)
    expected = reference.prepare(image, Letterbox.fit(height, width, size), spec)
    np.testing.assert_array_equal(run(kernels, memory, image, spec, half=False), expected)
    np.testing.assert_array_equal(run(kernels, memory, image, spec, half=True), expected.astype(np.float16))


@pytest.mark.parametrize(("height", "width", "size"), [*SIZES, (480, 640, 473), (1080, 1920, 473)])
def test_the_reference_is_the_runtime_within_a_grey_level(height: int, width: int, size: int) -> None:
    image, spec = photo(height, width, 1), InputSpec(size)
    expected, box = prepare_image(image, spec)
    levels = (reference.prepare(image, box, spec) - expected) * np.asarray(spec.std, np.float32)[:, None, None]
    assert np.abs(levels).max() < 1.001
    assert (np.abs(levels) > 0.5).mean() < 0.2, "another rounding differs in one pixel of eight"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), size=st.integers(1, 70), shift=st.integers(0, 15),
    gap=st.integers(0, 20), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size_pitch_and_alignment(
    kernels: Kernels, memory: Memory, height: int, width: int, size: int, shift: int, gap: int, seed: int
) -> None:
    image, spec = photo(height, width, seed), InputSpec(size)
    expected = reference.prepare(image, Letterbox.fit(height, width, size), spec)
    np.testing.assert_array_equal(run(kernels, memory, image, spec, half=False, shift=shift, gap=gap), expected)


@pytest.mark.parametrize(("height", "width", "size"), [(40, 60, 65), (400, 300, 65)])
def test_a_flat_image_keeps_its_colour(kernels: Kernels, memory: Memory, height: int, width: int, size: int) -> None:
    spec = InputSpec(size, mean=(10, 20, 30), std=(2, 4, 5))
    box = Letterbox.fit(height, width, size)
    out = run(kernels, memory, np.full((height, width, 3), (20, 0, 255), np.uint8), spec, half=False)
    inner = out[:, : box.inner_height, : box.inner_width]
    np.testing.assert_allclose(inner, np.broadcast_to([[[5]], [[-5]], [[45]]], inner.shape), rtol=1e-6)
    assert not out[:, box.inner_height :].any()
    assert not out[:, :, box.inner_width :].any()


def test_nothing_is_launched_for_sizes_that_the_kernel_cannot_take(kernels: Kernels, driver: Any) -> None:
    spec = InputSpec(65)

    def prepare(box: Letterbox, pitch: int = 3 * 40_000) -> None:
        kernels.prepare(16, pitch, box, spec, 16, half=False)

    for box, pitch, words in (
        (Letterbox(65, 0, 10, 1, 1), 30, "10 x 0"),
        (Letterbox(65, 10, 32_768, 1, 65), 120_000, "32768 x 10"),
        (Letterbox(16_384, 10, 10, 10, 10), 30, "16384"),
        (Letterbox(65, 10, 10, 66, 10), 30, "do not fit"),
        (Letterbox(65, 100, 100, 65, 65), 299, "pitch of 299"),
        (Letterbox(65, 1000, 10, 65, 20), 30, "shrink"),
        (Letterbox(65, 10, 100, 10, 5), 300, "10 times"),
    ):
        with pytest.raises(InputError, match=words):
            prepare(box, pitch)
    assert driver.launched == []

"""DO mask and pooling: both forms of the kernel against NumPy and against the graph that is exported."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.export.elimination import do_mask, do_prototype
from ntre_deploy.kernels import reference
from ntre_deploy.kernels.launch import Kernels

Memory = Callable[[], Any]  # conftest.Arrays

Inputs = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]


def inputs(images: int, classes: int, channels: int, pixels: int, dtype: type, seed: int = 0) -> Inputs:
    rng = np.random.default_rng([seed, images, classes, channels, pixels])
    feature = rng.normal(1, 2, (images, channels, pixels)).astype(dtype)
    # whole numbers: many margins are exactly zero, a tie
    background, initial = (
        rng.integers(-3, 3, shape).astype(np.float32) for shape in ((images, pixels), (images, classes, pixels))
    )
    return feature, background, initial


def run(
    kernels: Kernels, memory: Memory, given_: Inputs, area_epsilon: float | None, shift: int = 0
) -> NDArray[np.float32]:
    arrays = memory()
    feature, background, initial = given_
    (images, channels, pixels), classes = feature.shape, initial.shape[1]
    out = arrays.room((images, classes, channels), np.float32)
    pointers = arrays.put(feature, shift), arrays.put(background), arrays.put(initial)
    half = feature.dtype == np.float16
    kernels.do_prototype(*pointers, (images, classes, channels, pixels), area_epsilon, out, half=half)
    return arrays.get(out, (images, classes, channels), np.float32)


@pytest.mark.parametrize("area_epsilon", [None, 5e-4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 7, 9), (1, 5, 6, 16), (1, 1, 9, 3600), (1, 4, 4, 225)])
def test_the_kernel_is_the_reference_and_the_graph(
    kernels: Kernels, memory: Memory, shape: tuple[int, int, int, int], dtype: type, area_epsilon: float | None
) -> None:
    feature, background, initial = inputs(*shape, dtype)
    got = run(kernels, memory, (feature, background, initial), area_epsilon)
    expected = reference.do_prototype(feature, background, initial, area_epsilon)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    mask = do_mask(torch.tensor(background)[:, None, :, None], torch.tensor(initial)[..., None])
    graph = do_prototype(torch.tensor(feature)[..., None], mask, area_epsilon).numpy()
    np.testing.assert_allclose(got, graph, rtol=1e-4, atol=1e-5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.integers(1, 2), classes=st.integers(1, 9), channels=st.integers(1, 9), pixels=st.integers(1, 700),
    half=st.booleans(), area=st.booleans(), shift=st.sampled_from([0, 4]), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size(
    kernels: Kernels, memory: Memory, images: int, classes: int, channels: int, pixels: int, half: bool, area: bool,
    shift: int, seed: int,
) -> None:  # fmt: skip
    given_ = inputs(images, classes, channels, pixels, np.float16 if half else np.float32, seed)
    epsilon = 5e-4 if area else None
    expected = reference.do_prototype(*given_, epsilon)
    np.testing.assert_allclose(run(kernels, memory, given_, epsilon, shift), expected, rtol=1e-3, atol=1e-5)


def test_an_empty_mask(kernels: Kernels, memory: Memory) -> None:
    feature, background, initial = inputs(1, 2, 5, 36, np.float32)
    background[:] = 1
    for epsilon in (None, 5e-4):
        assert not run(kernels, memory, (feature, background, initial), epsilon).any()


def test_aligned_rows_are_read_as_vectors(kernels: Kernels, memory: Memory, driver: Any) -> None:
    for pixels, shift, name in ((16, 0, "do_pool4_f32"), (15, 0, "do_pool_f32"), (16, 4, "do_pool_f32")):
        driver.launched.clear()
        run(kernels, memory, inputs(1, 1, 3, pixels, np.float32), None, shift)
        assert driver.launched == [name]


def test_nothing_is_launched_for_empty_sizes(kernels: Kernels, driver: Any) -> None:
    for shape in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0), (70_000, 1, 1, 1)):
        with pytest.raises(InputError, match="1 or more"):
            kernels.do_prototype(16, 16, 16, shape, None, 16, half=False)
    assert driver.launched == []

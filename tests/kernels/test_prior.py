"""The prior: the tensor-core kernel against NumPy and against the graph that is exported."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.export.prior import prior as graph_prior
from ntre_deploy.kernels import reference
from ntre_deploy.kernels.launch import Kernels, PriorShape

Memory = Callable[[], Any]  # conftest.Arrays

# unit vectors rounded to fp16 on both sides; another order of summation, spread by the min-max
CLOSE = 2e-3


def features(shape: tuple[int, ...], seed: int = 0, dtype: type = np.float16) -> NDArray[Any]:
    """As behind a ReLU: half of the values are zero."""
    return np.maximum(np.random.default_rng([seed, *shape]).normal(0, 2, shape), 0).astype(dtype)


def unit_keys(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float16]:
    keys = features(shape, seed + 100, np.float32)
    norm = np.sqrt(np.square(keys).sum(2, keepdims=True))
    return (keys / np.maximum(norm, 1e-12)).astype(np.float16)


def run(
    kernels: Kernels, memory: Memory, feature: NDArray[Any], keys: NDArray[np.float16], extra: int = 0
) -> NDArray[np.float32]:
    """`extra` columns behind the keys hold what would win if it were looked at."""
    arrays = memory()
    classes, shots, channels, count = keys.shape
    stride = -(-(count + extra) // 8) * 8
    padded = np.full((classes, shots, channels, stride), 60, np.float16)
    padded[..., :count] = keys
    shape = PriorShape(len(feature), classes, shots, channels, feature.shape[2], count, stride)
    size = (shape.images, classes, shape.pixels)
    workspace, out = arrays.room((kernels.prior_workspace(shape),), np.uint8), arrays.room(size, np.float32)
    half = feature.dtype == np.float16
    kernels.prior(arrays.put(feature), arrays.put(padded), shape, workspace, out, half=half)
    return arrays.get(out, size, np.float32)


@pytest.mark.parametrize(
    ("images", "classes", "shots", "channels", "pixels", "keys"),
    [
        (1, 1, 1, 64, 81, 40), (2, 2, 3, 32, 30, 7), (1, 1, 1, 48, 129, 300), (1, 1, 2, 33, 9, 1), (1, 1, 1, 1, 1, 1),
        (1, 3, 1, 100, 225, 129), (1, 1, 1, 160, 128, 128),
    ],
)  # fmt: skip
def test_the_kernel_is_the_reference_and_the_graph(
    kernels: Kernels, memory: Memory, images: int, classes: int, shots: int, channels: int, pixels: int, keys: int
) -> None:
    feature = features((images, channels, pixels))
    columns = unit_keys((classes, shots, channels, keys))
    got = run(kernels, memory, feature, columns)
    np.testing.assert_allclose(got, reference.prior(feature, columns), atol=CLOSE)
    expected = graph_prior(torch.tensor(feature)[..., None], torch.tensor(columns).float(), torch.float32)
    np.testing.assert_allclose(got, expected[..., 0].numpy(), atol=CLOSE)
    assert pixels == 1 or got.max() > 0.5


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.integers(1, 2), classes=st.integers(1, 3), shots=st.integers(1, 3), channels=st.integers(1, 70),
    pixels=st.integers(1, 140), keys=st.integers(1, 140), extra=st.integers(0, 40), half=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size(
    kernels: Kernels, memory: Memory, images: int, classes: int, shots: int, channels: int, pixels: int, keys: int,
    extra: int, half: bool, seed: int,
) -> None:  # fmt: skip
    feature = features((images, channels, pixels), seed, np.float16 if half else np.float32)
    columns = unit_keys((classes, shots, channels, keys), seed)
    best = np.einsum("bdp,nkdm->bnkpm", feature.astype(np.float64), columns.astype(np.float64)).max(4)
    got = run(kernels, memory, feature, columns, extra)
    # where all pixels are alike, the min-max spreads rounding over 0 to 1
    norm = np.sqrt(np.square(feature.astype(np.float64)).sum(1))[:, None, None]
    cosine = best / np.maximum(norm, 1e-12)
    spread = (cosine.max(3) - cosine.min(3)).min()
    if spread > 0.05:
        np.testing.assert_allclose(got, reference.prior(feature, columns), atol=CLOSE / spread)
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got.max() <= 1


def test_padding_shots_and_zero_vectors(kernels: Kernels, memory: Memory) -> None:
    feature = features((1, 40, 50))
    feature[:, :, 7] = 0  # a pixel without any feature
    keys = unit_keys((2, 2, 40, 20))
    keys[:, :, :, 11:] = 0  # columns outside the mask
    keys[1, 1] = -1  # a class with one shot
    got = run(kernels, memory, feature, keys)
    np.testing.assert_allclose(got, reference.prior(feature, keys), atol=CLOSE)
    assert (got[:, :, 7] == 0).all()
    alone = run(kernels, memory, feature, keys[1:, :1])
    np.testing.assert_array_equal(got[:, 1], alone[:, 0])


def test_norms_beyond_sixteen_bits(kernels: Kernels, memory: Memory) -> None:
    feature = features((1, 64, 40), dtype=np.float32)
    keys = unit_keys((1, 1, 64, 16))
    large, small = (run(kernels, memory, (feature * scale).astype(np.float16), keys) for scale in (6000, 0.5))
    np.testing.assert_allclose(large, small, atol=CLOSE)


def test_a_nan_shows(kernels: Kernels, memory: Memory) -> None:
    feature = features((1, 32, 20))
    feature[0, 3, 4] = np.nan
    assert np.isnan(run(kernels, memory, feature, unit_keys((1, 1, 32, 8)))).all()


@pytest.mark.parametrize("multiprocessors", [1, 3, 1000])
def test_the_split_over_blocks_changes_nothing(driver: Any, memory: Memory, multiprocessors: int) -> None:
    feature, keys = features((1, 40, 60)), unit_keys((1, 1, 40, 520))
    one = run(Kernels(driver, driver.compute_capability, 1), memory, feature, keys)
    np.testing.assert_array_equal(
        run(Kernels(driver, driver.compute_capability, multiprocessors), memory, feature, keys), one
    )


def test_nothing_is_launched_for_sizes_that_the_kernel_cannot_take(kernels: Kernels, driver: Any) -> None:
    shape = PriorShape(1, 1, 1, 32, 20, 8, 8)
    for bad in (
        PriorShape(1, 1, 1, 32, 20, 0, 8),
        PriorShape(1, 1, 1, 32, 20, 9, 8),
        PriorShape(1, 1, 1, 32, 20, 8, 12),
        PriorShape(1, 1, 1, 32, 0, 8, 8),
        PriorShape(1, 70_000, 1, 32, 20, 8, 8),
    ):
        with pytest.raises(InputError, match=r"stride|shots"):
            kernels.prior_workspace(bad)
        with pytest.raises(InputError, match=r"stride|shots"):
            kernels.prior(16, 16, bad, 16, 16, half=True)
    with pytest.raises(InputError, match="keys lie"):
        kernels.prior(16, 8, shape, 16, 16, half=True)
    with pytest.raises(InputError, match="workspace"):
        kernels.prior(16, 16, shape, 24, 16, half=True)
    assert driver.launched == []

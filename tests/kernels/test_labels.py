"""Post-processing: the kernel's labels are runtime.labels.label_map's wherever the two best margins are apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.labels import back_map, label_map
from ntre_deploy.runtime.letterbox import Letterbox

Memory = Callable[[], Any]  # conftest.Arrays

# sums of a few float32 products in another order
CLOSE = 1e-5

SIZES = [
    (1, 1, 33, 5, 5), (1, 300, 33, 5, 5), (300, 1, 33, 5, 5), (47, 61, 65, 9, 9), (200, 333, 65, 9, 9),
    (65, 65, 65, 65, 65), (20, 9, 65, 9, 7), (500, 129, 57, 1, 1), (33, 400, 33, 1, 4), (31, 17, 1, 1, 1),
    (5, 7, 2, 2, 2), (2, 2500, 41, 6, 6), (1, 32767, 41, 6, 6),
]  # fmt: skip


def run(kernels: Kernels, memory: Memory, logits: NDArray[Any], box: Letterbox) -> NDArray[np.uint8]:
    arrays = memory()
    classes, _, h, w = logits.shape
    out = arrays.room((box.height, box.width), np.uint8)
    address = arrays.put(logits)
    kernels.label_map(address, (classes, h, w), box, out, half=logits.dtype == np.float16)
    return arrays.get(out, (box.height, box.width), np.uint8)


def undecided(logits: NDArray[Any], box: Letterbox) -> NDArray[np.bool_]:
    """Where the best two margins (background counts as zero) are closer than rounding."""
    margin = logits[:, 1].astype(np.float64) - logits[:, 0]
    rows = back_map(box.height, box.inner_height, box.size, logits.shape[2])
    columns = back_map(box.width, box.inner_width, box.size, logits.shape[3])
    values = np.concatenate([np.zeros((1, box.height, box.width)), rows @ margin @ columns.T])
    best = np.sort(values, 0)
    close: NDArray[np.bool_] = best[-1] - best[-2] < CLOSE * (1 + np.abs(logits).max())
    return close


def check(kernels: Kernels, memory: Memory, logits: NDArray[Any], box: Letterbox) -> None:
    got = run(kernels, memory, logits, box)
    differs = got != label_map(logits.astype(np.float32), box)
    assert not (differs & ~undecided(logits, box)).any()
    assert differs.mean() <= 0.01


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("height", "width", "size", "h", "w"), SIZES)
def test_the_kernel_is_the_runtime(
    kernels: Kernels, memory: Memory, height: int, width: int, size: int, h: int, w: int, dtype: type, classes: int
) -> None:
    logits = np.random.default_rng([height, width]).normal(0, 3, (classes, 2, h, w)).astype(dtype)
    box = Letterbox.fit(height, width, size)
    labels = label_map(logits.astype(np.float32), box)
    assert height * width < 100 or len(np.unique(labels)) > 1 or h * w == 1  # the case says something
    check(kernels, memory, logits, box)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 120), width=st.integers(1, 200), size=st.integers(1, 80), classes=st.integers(1, 5),
    seed=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_any_size(
    kernels: Kernels, memory: Memory, height: int, width: int, size: int, classes: int, seed: int, data: st.DataObject
) -> None:
    h, w = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
    logits = np.random.default_rng(seed).normal(0, 3, (classes, 2, h, w)).astype(np.float32)
    check(kernels, memory, logits, Letterbox.fit(height, width, size))


def test_as_many_classes_as_labels(kernels: Kernels, memory: Memory) -> None:
    logits = np.random.default_rng(5).normal(0, 3, (255, 2, 5, 5)).astype(np.float32)
    check(kernels, memory, logits, Letterbox.fit(24, 40, 33))


def test_ties_go_to_the_background_and_then_to_the_first_class(kernels: Kernels, memory: Memory) -> None:
    box = Letterbox.fit(20, 30, 17)
    assert not run(kernels, memory, np.zeros((2, 2, 3, 3), np.float32), box).any()
    same = np.zeros((3, 2, 3, 3), np.float32)
    same[:, 1] = 2
    assert (run(kernels, memory, same, box) == 1).all()


@pytest.mark.parametrize("broken", [0, 1])
def test_a_nan_hides_nothing_that_the_runtime_shows(kernels: Kernels, memory: Memory, broken: int) -> None:
    logits = np.random.default_rng(1).normal(0, 3, (2, 2, 5, 5)).astype(np.float32)
    logits[broken] = np.nan
    box = Letterbox.fit(40, 30, 33)
    np.testing.assert_array_equal(run(kernels, memory, logits, box), label_map(logits, box))


def test_nothing_is_launched_for_sizes_that_the_kernel_cannot_take(kernels: Kernels, driver: Any) -> None:
    box = Letterbox.fit(40, 30, 33)
    for shape, words in (
        ((0, 5, 5), "0 classes"),
        ((256, 5, 5), "256 classes"),
        ((1, 0, 5), "5 x 0"),
        ((1, 5, 34), "34 x 5"),
    ):
        with pytest.raises(InputError, match=words):
            kernels.label_map(16, shape, box, 16, half=False)
    assert driver.launched == []

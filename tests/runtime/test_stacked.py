"""Keys of unequal shots in chunks: nothing is lost, nothing is mixed, and lots are what a plan takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.stacked import CHUNK, StackedSupports, lots, stack

SIZES = st.lists(st.lists(st.integers(0, 3 * CHUNK), min_size=1, max_size=4), min_size=1, max_size=6)
DEPTH = 3


def supports(sizes: list[list[int]]) -> tuple[np.ndarray, list[list[np.ndarray]], StackedSupports]:
    rng = np.random.default_rng(0)
    keys = [[rng.random((DEPTH, m), np.float32) + 1 for m in shots] for shots in sizes]
    prototypes = rng.random((len(sizes), 2), np.float32)
    return prototypes, keys, stack(list(prototypes), keys)


def read_back(found: StackedSupports, n: int, k: int) -> np.ndarray:
    """The keys [D, M] of a shot, without the zeros at its end."""
    own = found.keys[list(dict.fromkeys(found.chunks[n, k]))].reshape(-1, DEPTH)
    return own[own.any(axis=1)].T


def check(found: StackedSupports, keys: list[list[np.ndarray]]) -> None:
    assert (found.keys.dtype, found.chunks.dtype) == (np.float32, np.int32)
    for n, shots in enumerate(keys):
        for k in range(found.chunks.shape[1]):
            if k >= len(shots):
                assert (found.chunks[n, k] == -1).all()
                continue
            assert found.chunks[n, k].min() >= 0
            assert found.chunks[n, k].max() < len(found.keys)
            np.testing.assert_array_equal(read_back(found, n, k), shots[k])


@given(SIZES)
def test_every_shot_is_found_again_and_none_is_another_ones(sizes: list[list[int]]) -> None:
    prototypes, keys, found = supports(sizes)
    np.testing.assert_array_equal(found.prototypes, prototypes)
    check(found, keys)
    used = [set(found.chunks[n, k].tolist()) for n, shots in enumerate(keys) for k in range(len(shots))]
    assert sum(map(len, used)) == len(set().union(*used))


def test_memory_follows_what_is_there_and_not_the_largest_shot() -> None:
    _, _, found = supports([[3000], *([[20]] * 19)])
    assert found.keys.shape[0] == 128  # 94 + 19 chunks, of which four to an octave are there
    assert found.chunks.shape == (20, 1, 96)


@pytest.mark.parametrize(
    ("keys", "chunks"), [(0, 1), (1, 1), (32, 1), (33, 2), (224, 7), (225, 8), (257, 10), (2049, 80), (3600, 128)]
)
def test_chunks_take_few_numbers(keys: int, chunks: int) -> None:
    _, _, found = supports([[keys]])
    assert found.keys.shape == (chunks, CHUNK, DEPTH)


@given(SIZES, st.integers(1, 4), st.integers(12, 20))
def test_lots_hold_every_class_once_and_fit(sizes: list[list[int]], most_classes: int, most_chunks: int) -> None:
    prototypes, keys, found = supports(sizes)
    start = 0
    for lot in lots(found, most_classes, most_chunks):
        n = len(lot.prototypes)
        assert 0 < n <= most_classes
        assert len(lot.keys) <= most_chunks
        np.testing.assert_array_equal(lot.prototypes, prototypes[start : start + n])
        check(lot, keys[start : start + n])
        start += n
    assert start == len(sizes)


def test_a_class_that_no_lot_holds_is_refused() -> None:
    _, _, found = supports([[10], [CHUNK * 3]])
    with pytest.raises(EngineError, match="Class 2 has 96 support keys and the engine takes 64 at once"):
        list(lots(found, 5, 2))

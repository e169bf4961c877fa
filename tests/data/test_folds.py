import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.data.folds import SPLITS, base_classes, novel_classes
from ntre_deploy.errors import InputError


@given(st.data(), st.sampled_from(SPLITS), st.integers(2, 8))
def test_folds_partition_the_classes(data: st.DataObject, split: str, folds: int) -> None:
    n = data.draw(st.integers(folds, 120))
    parts = [novel_classes(n, fold, split, folds) for fold in range(folds)]
    assert sorted(c for part in parts for c in part) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for fold, part in enumerate(parts):
        assert sorted(part + base_classes(n, fold, split, folds)) == list(range(n))


def test_published_folds() -> None:
    assert novel_classes(20, 2) == (10, 11, 12, 13, 14)
    assert novel_classes(80, 1, "interleaved")[:3] == (1, 5, 9)
    assert novel_classes(80, 3, "contiguous") == tuple(range(60, 80))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((20, 4), "Fold 4 does not exist; it must be 0 to 3"),
        ((20, -1), "Fold -1"),
        ((3, 0), "3 classes cannot be split into 4 folds"),
        ((20, 0, "interleavd"), "Did you mean 'interleaved'"),
        ((20, 0, "contiguous", 1), "at least 2"),
    ],
)
def test_bad_folds(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        novel_classes(*arguments)
    with pytest.raises(InputError, match=message):
        base_classes(*arguments)

"""Requests as arrays and back, without a server."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.serving.supports import Named, Shown, Stored
from ntre_deploy.serving.triton.tensors import items, outputs

IMAGE = np.zeros((1, 4, 5, 3), np.uint8)


def test_kinds_of_support(strings: Callable[..., np.ndarray]) -> None:
    (item,) = items({"image": IMAGE, "memories": strings("a", "ü")})
    assert item.supports == (Named("a"), Named("ü"))
    assert isinstance(item.image, np.ndarray)
    assert item.image.shape == (4, 5, 3)
    (item,) = items({"image_bytes": strings(b"photo"), "support_memories": strings(b"1", b"2")})
    assert (item.image, item.supports) == (b"photo", (Stored(b"1"), Stored(b"2")))


def test_shots_of_a_class_come_together(strings: Callable[..., np.ndarray]) -> None:
    shown = {"support_images": strings(b"1", b"2", b"3"), "support_masks": strings(b"a", b"b", b"c")}
    (item,) = items({"image": IMAGE} | shown)
    (one,) = item.supports
    assert isinstance(one, Shown)
    assert (one.name, one.shots) == ("support", ((b"1", b"a"), (b"2", b"b"), (b"3", b"c")))
    (item,) = items({"image": IMAGE, "support_names": strings("y", "x", "y")} | shown)
    assert [(s.name, s.shots) for s in item.supports if isinstance(s, Shown)] == [
        ("y", ((b"1", b"a"), (b"3", b"c"))),
        ("x", ((b"2", b"b"),)),
    ]


def test_rows_are_images_with_supports_of_their_own(strings: Callable[..., np.ndarray]) -> None:
    found = items({"image": IMAGE.repeat(3, 0), "memories": np.concatenate([strings(n) for n in "aba"])})
    assert [item.supports for item in found] == [(Named("a"),), (Named("b"),), (Named("a"),)]
    assert found[0].key == found[2].key != found[1].key
    with pytest.raises(InputError, match="for 1 images and 3 were given"):
        items({"image": IMAGE.repeat(3, 0), "memories": strings("a")})


@given(
    st.lists(st.sampled_from([b"", b"a", b"b", b"ab"]), max_size=3),
    st.lists(st.sampled_from([b"", b"a", b"b", b"ab"]), max_size=3),
)
def test_keys_are_equal_where_supports_are(one: list[bytes], other: list[bytes]) -> None:
    def key(names: list[bytes], kind: str) -> object:
        row = np.empty((1, len(names)), np.object_)
        row[0] = names
        return items({"image": IMAGE, kind: row})[0].key

    assert (key(one, "memories") == key(other, "memories")) == (one == other)
    assert key(one, "memories") != key(one, "support_memories")


def test_results_of_a_request_become_arrays() -> None:
    def result(height: int, *names: str) -> Result:
        return Result(np.full((height, 3), 1, np.uint8), names, scores=tuple(0.5 for _ in names))

    arrays = outputs([result(2, "a", "b"), result(2, "c", "ü")])
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "labels": (np.uint8, (2, 2, 3)),
        "scores": (np.float32, (2, 2)),
        "names": (np.object_, (2, 2)),
    }
    assert arrays["names"].tolist() == [[b"a", b"b"], [b"c", "ü".encode()]]
    with pytest.raises(InputError, match="different sizes"):
        outputs([result(2, "a"), result(3, "a")])
    with pytest.raises(InputError, match="different numbers of classes"):
        outputs([result(2, "a"), result(2, "a", "b")])

"""COCO's run-length code, against pycocotools and against a reader of its own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ntre_deploy.runtime.rle import encode_rle, outline_box


def decode(code: dict[str, Any]) -> np.ndarray:
    """The mask of a code, after rleFrString of cocoapi."""
    height, width = code["size"]
    runs: list[int] = []
    at, text = 0, code["counts"]
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            part = ord(text[at]) - 48
            value |= (part & 0x1F) << shift
            more = bool(part & 0x20)
            at, shift = at + 1, shift + 5
            if not more and part & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape((height, width), order="F").astype(np.uint8)


masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda s: arrays(np.uint8, s, elements=st.integers(0, 1))
)


@given(masks)
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encode_rle(mask)), mask)


def examples() -> list[np.ndarray]:
    blob = np.zeros((480, 640), np.uint8)
    blob[100:300, 200:500] = 1
    blob[150:200, 250:260] = 0
    noise = np.random.default_rng(0).integers(0, 2, (97, 131), dtype=np.uint8)
    return [blob, noise, blob * 0, blob * 0 + 1, noise[:1], noise[:, :1], blob.astype(bool), np.asfortranarray(noise)]


@pytest.mark.parametrize("number", range(8))
def test_the_code_is_that_of_pycocotools(number: int) -> None:
    tools = pytest.importorskip("pycocotools.mask")
    mask = examples()[number]
    wanted = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = encode_rle(mask)
    assert found == {"size": list(wanted["size"]), "counts": wanted["counts"].decode("ascii")}
    assert outline_box(mask) == [round(v) for v in tools.toBbox(wanted)]


def test_the_box_of_nothing_is_empty() -> None:
    assert outline_box(np.zeros((4, 5))) == [0, 0, 0, 0]

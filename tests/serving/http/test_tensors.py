"""Bodies of the open inference protocol: what comes in is what goes out, and no bytes at all do harm."""

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.serving.http.v2 import inference
from ntre_deploy.serving.http.v2.tensors import packed_answer, read_request

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _or(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what is expected, and anything else at times."""
    return st.one_of(kind, kind, kind, _JSON)


_TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": _or(st.sampled_from([name for name, *_ in inference.INPUTS])),
        "datatype": _or(st.sampled_from(["BYTES", "UINT8", "FP32"])),
        "shape": _or(st.lists(st.integers(-1, 4), max_size=4)),
        "data": _or(st.lists(st.integers(-1, 300) | st.text(max_size=4), max_size=12)),
        "parameters": _or(st.fixed_dictionaries({}, optional={"binary_data_size": _or(st.integers(-1, 30))})),
    },
)
_REQUEST = st.fixed_dictionaries(
    {"inputs": _or(st.lists(_TENSOR, max_size=4))},
    optional={"id": _or(st.text(max_size=3)), "outputs": _JSON, "parameters": _JSON},
)


@given(_REQUEST, st.binary(max_size=40), st.integers(0, 40))
def test_no_request_raises_anything_but_one_line(content: Any, rest: bytes, off: int) -> None:
    head = json.dumps(content).encode()
    for body, length in ((head, None), (head + rest, str(len(head))), (head + rest, str(off)), (rest, None)):
        with contextlib.suppress(InputError):
            inference.understood(read_request(body, length))


def test_an_answer_is_read_as_it_was_written() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    for binary in (True, False):
        body, length = packed_answer(
            {"model_name": "m"}, [("image", image, binary), ("memories", ["a", "ü", ""], binary)]
        )
        content = json.loads(body[:length])
        assert content["model_name"] == "m"
        asked = json.dumps({"inputs": content["outputs"]}).encode()
        back = read_request(asked + body[length:] if length else asked, str(len(asked)) if length else None)
        np.testing.assert_array_equal(back.inputs["image"].data, image)
        assert back.inputs["memories"].data == [b"a", "ü".encode(), b""]


def test_pixels_are_not_copied() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    entry = {"name": "image", "datatype": "UINT8", "shape": [100, 100, 3], "parameters": {"binary_data_size": 30_000}}
    head = json.dumps({"inputs": [entry]}).encode()
    body = head + pixels.tobytes()
    found = read_request(body, str(len(head))).inputs["image"].data
    assert isinstance(found, np.ndarray)
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("depth", [10, 100, 1000, 100_000])
def test_lists_in_lists(depth: int) -> None:
    data = "[" * depth + "1" + "]" * depth
    body = '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "data": ' + data + "}]}"
    if depth == 10:
        assert read_request(body.encode(), None).inputs["image"].data.shape == (1,)  # type: ignore[union-attr]
        return
    with pytest.raises(InputError):
        read_request(body.encode(), None)

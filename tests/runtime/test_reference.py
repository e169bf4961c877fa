"""The reference set's file: what comes back is what went in, and what is hostile is refused."""

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load, save

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import REFERENCE, Bundle
from ntre_deploy.runtime.reference import ReferenceSet, StoredEpisode, pack_reference, picture_id, unpack_reference
from tests.forging import list_anew

RNG = np.random.default_rng


def episode(number: int, height: int = 12, width: int = 17, shots: int = 1) -> StoredEpisode:
    rng = RNG(number)

    def photo(h: int, w: int) -> np.ndarray:
        return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)

    def mask(h: int, w: int, *values: int) -> np.ndarray:
        return rng.choice(np.array(values, np.uint8), (h, w))

    supports = tuple((photo(9 + k, 7), mask(9 + k, 7, 0, 1, 255)) for k in range(shots))
    logits = rng.standard_normal((2, 3, 4)).astype(np.float32)
    truth, labels = mask(height, width, 0, 1, 255), mask(height, width, 0, 1)
    return StoredEpisode(number, f"Löffel {number}", photo(height, width), supports, truth, labels, logits)


def reference(count: int = 2, shots: int = 1) -> ReferenceSet:
    return ReferenceSet("photos", shots, 7, tuple(episode(n, 12 + n, shots=shots) for n in range(count)))


@given(st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=12)
def test_everything_comes_back_to_the_last_bit(count: int, shots: int) -> None:
    wanted = reference(count, shots)
    got = unpack_reference(pack_reference(wanted))
    assert (got.dataset, got.shots, got.seed, len(got.episodes)) == ("photos", shots, 7, count)
    for a, b in zip(got.episodes, wanted.episodes, strict=True):
        assert (a.class_id, a.class_name) == (b.class_id, b.class_name)
        pairs = [(getattr(a, n), getattr(b, n)) for n in ("query", "truth", "labels", "logits")]
        pairs += [pair for one, two in zip(a.supports, b.supports, strict=True) for pair in zip(one, two, strict=True)]
        for one, two in pairs:
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_the_same_set_is_the_same_file_and_another_picture_has_another_name() -> None:
    assert pack_reference(reference()) == pack_reference(reference())
    photo = episode(0).query
    assert picture_id(photo) == picture_id(photo.copy())
    names = {picture_id(p) for p in (photo, photo[:, ::-1], photo[:-1], photo.reshape(17, 12, 3), photo + 1)}
    assert len(names) == 5


@given(st.integers(0, 1 << 20), st.integers(0, 7))
@settings(max_examples=150)
def test_a_flipped_bit_gives_a_set_or_an_input_error(at: int, bit: int) -> None:
    # in a bundle, the SHA-256 finds it before
    content = bytearray(PACKED)
    content[at % len(content)] ^= 1 << bit
    with contextlib.suppress(InputError):
        unpack_reference(bytes(content))


PACKED = pack_reference(reference())


@pytest.mark.parametrize("length", [0, 7, 8, 100, 2000])
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(InputError):
        unpack_reference(PACKED[:length])


def png(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def bomb() -> np.ndarray:
    """A PNG of a few hundred bytes that declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )
    return np.frombuffer(content, np.uint8)


def jpeg() -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(episode(0).query).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


Tensors = dict[str, np.ndarray]
_WRONG: dict[str, Callable[[Tensors], Tensors]] = {
    "lacks a tensor": lambda t: {k: v for k, v in t.items() if k != "1.labels"},
    "a bomb": lambda t: t | {"0.query": bomb()},
    "another format": lambda t: t | {"0.query": jpeg()},
    "no picture": lambda t: t | {"0.query": np.zeros(50, np.uint8)},
    "a cut picture": lambda t: t | {"0.query": t["0.query"][:-30]},
    "floats": lambda t: t | {"0.query": t["0.query"].astype(np.float32)},
    "a matrix": lambda t: t | {"0.query": t["0.query"][None]},
    "a grey query": lambda t: t | {"0.query": t["0.truth"]},
    "a coloured mask": lambda t: t | {"0.mask.0": t["0.support.0"]},
    "a mask of another size": lambda t: t | {"0.mask.0": png(np.ones((3, 3), np.uint8))},
    "labels of another size": lambda t: t | {"0.labels": t["1.labels"]},
    "values in a mask": lambda t: t | {"0.truth": png(np.full((12, 17), 2, np.uint8))},
    "ignored labels": lambda t: t | {"0.labels": png(np.full((12, 17), 255, np.uint8))},
    "NaN": lambda t: t | {"0.logits": np.full((2, 3, 4), np.nan, np.float32)},
    "float64": lambda t: t | {"0.logits": t["0.logits"].astype(np.float64)},
    "three channels": lambda t: t | {"0.logits": np.zeros((3, 3, 4), np.float32)},
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_arrays_that_are_no_episode_are_refused(wrong: str) -> None:
    length = struct.unpack("<Q", PACKED[:8])[0]
    metadata = json.loads(PACKED[8 : 8 + length])["__metadata__"]
    with pytest.raises(InputError):
        unpack_reference(save(_WRONG[wrong](load(PACKED)), metadata))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "ntre-support"},
        {"version": 2},
        {"classes": []},
        {"classes": [[0, "a"]] * 3},
        {"classes": [[0]]},
        {"classes": [0, 1]},
        {"classes": {"a": 1}},
        {"classes": [[0, "a"]] * 2000},
        {"shots": 0},
        {"shots": 2},
        {"shots": 10**9},
        {"shots": "x"},
        {"seed": -1},
        {"seed": None},
    ],
)
def test_metadata_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    length = struct.unpack("<Q", PACKED[:8])[0]
    content = json.loads(json.loads(PACKED[8 : 8 + length])["__metadata__"]["ntre"])
    for text in (json.dumps(content | change), "[]", "{", "null"):
        with pytest.raises(InputError):
            unpack_reference(save(load(PACKED), {"ntre": text}))
    with pytest.raises(InputError):
        unpack_reference(save(load(PACKED), None))


# --- in a bundle


def put(bundle: Path, content: bytes) -> None:
    """Exchange the reference set of a bundle, and make the manifest agree."""
    (bundle / REFERENCE).write_bytes(content)
    list_anew(bundle, REFERENCE)


def test_a_set_of_another_model_and_a_damaged_one_are_told_with_the_bundle(bundle: Path) -> None:
    for content, words in ((PACKED, "does not fit its graphs"), (PACKED[:-1], "cannot be read")):
        put(bundle, content)
        with pytest.raises(InputError, match=rf"The reference set of .*tiny\.ntre.*{words}") as caught:
            Bundle.open(bundle).reference()
        assert "\n" not in str(caught.value)
    (bundle / REFERENCE).write_bytes(bytes(len(PACKED) - 1))
    with pytest.raises(InputError, match="has been changed"):
        Bundle.open(bundle).reference()

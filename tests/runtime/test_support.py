"""Support memories: files that come back equal, and hostile ones."""

import hashlib
import json
import os
import stat
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.calibration import NEUTRAL, Calibration
from ntre_deploy.runtime.support import SupportMemory, calibrations, compact_keys


def meta(**changes: object) -> dict[str, str]:
    """Metadata as `save` writes it, with some entries changed."""
    return {"ntre": json.dumps({"format": "ntre-support", "version": 1, "name": "fork", "model": "m1"} | changes)}


META = meta()
RNG = np.random.default_rng
NAME = 'forké "sha256": "' + "0" * 64
# made for versions without a digest, which are read with a warning
pytestmark = pytest.mark.filterwarnings("ignore:.*without a digest:ntre_deploy.errors.NtreWarning")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return RNG(seed).standard_normal(shape).astype(np.float32)


def memory(*columns: int, name: str = "fork", channels: int = 5, depth: int = 7) -> SupportMemory:
    keys = tuple(random(depth, m, seed=i + 1) for i, m in enumerate(columns))
    return SupportMemory(name, random(channels), keys, "m1")


def tensors(item: SupportMemory) -> dict[str, np.ndarray]:
    return {"prototype": item.prototype} | {f"keys.{i}": k for i, k in enumerate(item.keys)}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        SupportMemory.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.text(max_size=20))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_memory_comes_back_as_it_was_saved(tmp_path: Path, columns: list[int], name: str) -> None:
    # more than ten shots: the order of the keys is that of numbers, not of texts
    wanted = memory(*columns, name=name)
    wanted.save(tmp_path / "m.safetensors")
    got = SupportMemory.load(str(tmp_path / "m.safetensors"))
    assert (got.name, got.model, got.shots) == (name, "m1", len(columns))
    np.testing.assert_array_equal(got.prototype, wanted.prototype)
    for a, b in zip(got.keys, wanted.keys, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_in_another_memory_order_are_saved_right(tmp_path: Path) -> None:
    item = SupportMemory("t", random(5), (np.asfortranarray(random(7, 4)), random(4, 7).T), "m1")
    item.save(tmp_path / "m")
    for a, b in zip(SupportMemory.load(tmp_path / "m").keys, item.keys, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_saved_memory_follows_the_umask_and_leaves_nothing_else(tmp_path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    memory(3).save(tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.safetensors"]
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o666 & ~mask


def test_saving_where_nothing_can_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        memory(3).save(tmp_path / "file" / "m")
    with pytest.raises(InputError, match="Cannot write"):
        memory(3).save("/proc/m")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "does not exist or is not a file" in refused(tmp_path / "none")
    assert "does not exist or is not a file" in refused(tmp_path)


def test_a_path_that_the_system_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="name too long") as caught:
        SupportMemory.load(Path("x" * 5000))
    assert len(str(caught.value)) < 400


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_memory_is_refused(tmp_path: Path, length: int) -> None:
    content = save(tensors(memory(3, 4)), META)
    (tmp_path / "m").write_bytes(content[: length % len(content)])
    refused(tmp_path / "m")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with everything that a memory may hold, and a name that JSON has to escape twice."""
    path = tmp_path_factory.mktemp("saved") / "m"
    item = replace(memory(3, 4, name=NAME), calibration=Calibration(0.25, 1e-05), shot_scores=(0.5, 1e-07))
    item.save(path)
    return path.read_bytes()


def header_end(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


def test_a_flipped_bit_in_any_byte_is_refused(saved: bytes, tmp_path: Path) -> None:
    # every byte of the header, where a flip may give JSON of the same meaning (1e-05 and 1E-05, \\u00e9 and \\u00E9)
    said = set()
    for at in range(len(saved)):
        content = bytearray(saved)
        content[at] ^= 0x20 if at < header_end(saved) else 1 << at % 8
        (tmp_path / "m").write_bytes(content)
        said.add(refused(tmp_path / "m").replace(str(tmp_path / "m"), "").split(":")[0])
    assert any("has been changed" in text for text in said)
    assert any("lacks the digest" in text for text in said)


_PARTS = {
    "length": lambda c: (0, 8),
    "format": lambda c: (c.index(b"ntre-support"), 12),
    "name": lambda c: (c.index(b"name"), 30),
    "model": lambda c: (c.index(b"model"), 14),
    "offset": lambda c: (c.index(b"offset"), 16),
    "digest": lambda c: (c.index(b"sha256"), 76),
    "version": lambda c: (c.index(b"version"), 12),
    "tensors": lambda c: (c.index(b'"keys.0"'), header_end(c) - c.index(b'"keys.0"')),
    "data": lambda c: (header_end(c), len(c) - header_end(c)),
}


@pytest.mark.parametrize("part", _PARTS)
@given(data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits_are_refused_wherever_they_are(
    part: str, data: st.DataObject, saved: bytes, tmp_path: Path
) -> None:
    start, length = _PARTS[part](saved)
    content = bytearray(saved)
    places = st.tuples(st.integers(start, start + length - 1), st.integers(0, 7))
    for at, bit in data.draw(st.lists(places, min_size=1, max_size=3, unique=True)):
        content[at] ^= 1 << bit
    (tmp_path / "m").write_bytes(content)
    refused(tmp_path / "m")


def test_other_content_under_the_digest_of_a_file_is_refused(saved: bytes, tmp_path: Path) -> None:
    for change in (
        lambda c: c + b"\0",
        lambda c: c[:-4] + bytes(4),
        lambda c: c.replace(b"fork", b"knife"[:4]),
        lambda c: c.replace(b'\\"model\\": \\"m1', b'\\"model\\": \\"m2'),
        lambda c: c.replace(b"[0.5", b"[0.6"),
    ):
        assert change(saved) != saved
        (tmp_path / "m").write_bytes(change(saved))
        refused(tmp_path / "m")


def test_the_digest_is_what_the_documentation_tells_others_to_compute(saved: bytes) -> None:
    header = json.loads(saved[8 : header_end(saved)])
    digest = json.loads(header["__metadata__"]["ntre"])["sha256"]
    assert saved.count(digest.encode()) == 1
    assert hashlib.sha256(saved.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_the_same_memory_is_the_same_file(saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(saved)
    SupportMemory.load(tmp_path / "m").save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved


@pytest.mark.parametrize("digest", [None, 5, "", "0" * 64, "A" * 64, "a" * 63, ["a" * 64]])
def test_version_3_without_its_digest_is_refused(digest: object, tmp_path: Path) -> None:
    more = {} if digest is None else {"sha256": digest}
    save_file(tensors(memory(3)), tmp_path / "m", meta(version=3, **more))
    refused(tmp_path / "m")


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_without_a_digest_are_read_with_a_warning(version: int, tmp_path: Path) -> None:
    save_file(tensors(memory(3)), tmp_path / "m", meta(version=version))
    with pytest.warns(NtreWarning, match=f"of version {version}, without a digest.*--save-memory") as caught:
        SupportMemory.load(tmp_path / "m").save(tmp_path / "new")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SupportMemory.load(tmp_path / "new").shots == 1


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        meta(format="ntre-checkpoint"),
        meta(version=4),
        {"ntre": "{}"},
        {"ntre": "{"},
        {"ntre": "[]"},
    ],
)
def test_other_safetensors_files_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file(tensors(memory(3)), tmp_path / "m", metadata)
    assert "no support memory of version 1, 2 or 3" in refused(tmp_path / "m")


Arrays = dict[str, np.ndarray]
_WRONG: dict[str, Callable[[Arrays], Arrays]] = {
    "no_prototype": lambda t: {k: v for k, v in t.items() if k != "prototype"},
    "no_keys": lambda t: {"prototype": t["prototype"]},
    "no_arrays": lambda t: {},
    "keys_from_1": lambda t: {"prototype": t["prototype"], "keys.1": t["keys.0"]},
    "gap": lambda t: {"prototype": t["prototype"], "keys.0": t["keys.0"], "keys.2": t["keys.1"]},
    "padded_number": lambda t: {"prototype": t["prototype"], "keys.00": t["keys.0"]},
    "one_more_array": lambda t: t | {"more": t["prototype"]},
    "nan_prototype": lambda t: t | {"prototype": np.array([np.nan] * 5, np.float32)},
    "inf_key": lambda t: t | {"keys.1": np.full((7, 2), np.inf, np.float32)},
    "float16": lambda t: t | {"prototype": t["prototype"].astype(np.float16)},
    "float64_keys": lambda t: t | {"keys.0": t["keys.0"].astype(np.float64)},
    "int32": lambda t: t | {"prototype": np.arange(5, dtype=np.int32)},
    "bool": lambda t: t | {"keys.0": np.ones((7, 2), bool)},
    "scalar_prototype": lambda t: t | {"prototype": np.float32([1]).reshape(())},
    "prototype_2d": lambda t: t | {"prototype": random(1, 5)},
    "scalar_key": lambda t: t | {"keys.0": np.float32([1]).reshape(())},
    "keys_1d": lambda t: t | {"keys.0": random(7)},
    "keys_3d": lambda t: t | {"keys.1": random(7, 2, 1)},
    "other_depth": lambda t: t | {"keys.1": random(8, 2)},
    "no_channels": lambda t: t | {"prototype": random(0)},
    "no_depth": lambda t: {"prototype": t["prototype"], "keys.0": random(0, 2)},
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_arrays_that_are_no_memory_are_refused(wrong: str, tmp_path: Path) -> None:
    save_file(_WRONG[wrong](tensors(memory(3, 4))), tmp_path / "m", META)
    assert "does not hold the arrays" in refused(tmp_path / "m")


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("X", 1)])
def test_number_formats_that_numpy_lacks_are_refused(dtype: str, size: int, tmp_path: Path) -> None:
    header = {
        "__metadata__": META,
        "prototype": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]},
        "keys.0": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * size, 4 * size + 4]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * size + 4))
    refused(tmp_path / "m")


def test_a_header_that_declares_terabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(struct.pack("<Q", 1 << 42) + b"{}")
    refused(tmp_path / "m")


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(deadline=None)
def test_compacting_drops_the_zero_columns_and_no_other(inside: list[bool]) -> None:
    keys = np.abs(random(6, len(inside))) * np.array(inside)
    keys[:-1, ::3] = 0  # one value that is not zero is enough to stay
    wanted = [keys[:, i] for i in range(len(inside)) if inside[i]]
    got = compact_keys(keys.astype(np.float32))
    assert got.shape == (6, len(wanted))
    assert got.flags.c_contiguous
    for i, column in enumerate(wanted):
        np.testing.assert_array_equal(got[:, i], column.astype(np.float32))


# --- calibration and shot scores: version 2


def meta2(**changes: object) -> dict[str, str]:
    return meta(**({"version": 2, "offset": 0.25, "scale": 2.0, "shot_scores": [0.5, 1.0]} | changes))


@given(
    st.floats(-1e30, 1e30),
    st.floats(1e-30, 1e30),
    st.one_of(st.none(), st.tuples(st.floats(0, 1), st.floats(0, 1))),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_calibration_and_scores_come_back_to_the_last_bit(
    tmp_path: Path, offset: float, scale: float, scores: tuple[float, ...] | None
) -> None:
    item = replace(memory(3, 4), calibration=Calibration(offset, scale), shot_scores=scores)
    item.save(tmp_path / "m")
    found = SupportMemory.load(tmp_path / "m")
    assert (found.calibration, found.shot_scores) == (item.calibration, item.shot_scores)
    assert found.uncalibrated().calibration is None


def test_a_memory_of_version_1_is_read_as_one_without_calibration(tmp_path: Path) -> None:
    save_file(tensors(memory(3, 4)), tmp_path / "m", meta(version=1))
    found = SupportMemory.load(tmp_path / "m")
    assert (found.shots, found.calibration, found.shot_scores) == (2, None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 0}, "scale 0"),
        ({"scale": -1.0}, "scale -1.0"),
        ({"scale": float("nan")}, "scale nan"),
        ({"scale": float("inf")}, "scale inf"),
        ({"scale": 1e39}, "scale 1e+39"),
        ({"scale": True}, "scale True"),
        ({"scale": "1"}, "scale 1"),
        ({"scale": None}, "scale None"),
        ({"offset": float("nan")}, "offset nan"),
        ({"offset": float("-inf")}, "offset -inf"),
        ({"offset": 10**400}, "offset 1000"),
        ({"offset": []}, "offset []"),
        ({"shot_scores": [0.5]}, "2 numbers from 0 to 1"),
        ({"shot_scores": [0.5, 1.5]}, "2 numbers from 0 to 1"),
        ({"shot_scores": [0.5, float("nan")]}, "2 numbers from 0 to 1"),
        ({"shot_scores": [0.5, True]}, "2 numbers from 0 to 1"),
        ({"shot_scores": 0.5}, "2 numbers from 0 to 1"),
        ({"shot_scores": {"a": 1}}, "2 numbers from 0 to 1"),
    ],
)
def test_figures_that_cannot_be_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    save_file(tensors(memory(3, 4)), tmp_path / "m", meta2(**change))
    assert words in refused(tmp_path / "m")


def test_a_calibration_counts_where_all_of_several_classes_have_one() -> None:
    plain, known = memory(3), replace(memory(3), calibration=Calibration(0.5, 2.0))
    assert calibrations([known, known]) == [Calibration(0.5, 2.0)] * 2
    # an offset of 0 may be what was found, and does not switch off those of the others
    none_needed = replace(memory(3), calibration=NEUTRAL)
    assert calibrations([known, none_needed]) == [Calibration(0.5, 2.0), NEUTRAL]
    for given_memories in (known, [known], [known, plain], [plain, plain]):
        assert set(calibrations(given_memories)) == {NEUTRAL}

"""Support memories in C++ and Python: each reads the other's files, and neither takes a damaged one."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.runtime.calibration import Calibration
from ntre_deploy.runtime.support import SupportMemory
from tests.forging import assert_same_memory, drawn_memory

# a name that has to be escaped, twice, and one that tries to look like the digest's place
_NAMES = ["fork", 'Gäbel "7" \\ 日本', '\\"sha256\\":\\"' + "0" * 64, '"sha256":"' + "0" * 64]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("calibration", [None, Calibration(0.1, 1.0), Calibration(1e-30, 1 / 3)])
def test_a_memory_goes_to_cpp_and_back(abi: Any, tmp_path: Path, name: str, calibration: Calibration | None) -> None:
    # 0.1 is no number that binary ones have
    memory = drawn_memory(name, calibration, step=0.1)
    memory.save(tmp_path / "python.safetensors")
    read = abi.memory(tmp_path / "python.safetensors")
    assert_same_memory(read, memory)
    read.save(tmp_path / "cpp.safetensors")
    assert_same_memory(SupportMemory.load(tmp_path / "cpp.safetensors"), memory)
    assert read.to_bytes() == (tmp_path / "cpp.safetensors").read_bytes()
    assert_same_memory(abi.memory_of(read.to_bytes()), memory)
    assert read.uncalibrated().calibration is None
    assert read.uncalibrated().shot_scores == memory.shot_scores


def test_one_shot_without_keys_or_scores_goes_there_and_back(abi: Any, tmp_path: Path) -> None:
    memory = SupportMemory("x", np.ones(3, np.float32), (np.empty((4, 0), np.float32),), "m")
    memory.save(tmp_path / "in")
    read = abi.memory(tmp_path / "in")
    assert read.shot_scores == (-1.0,)
    read.save(tmp_path / "folder" / "out")
    assert_same_memory(SupportMemory.load(tmp_path / "folder" / "out"), memory)


def test_older_versions_are_read_with_pythons_warning(abi: Any, tmp_path: Path) -> None:
    for version in (1, 2):
        path = tmp_path / f"{version}"
        path.write_bytes(_rewritten(_saved(tmp_path), version=version, sha256=None))
        told: list[str] = []
        abi.memory(path, told.append)
        with pytest.warns(NtreWarning) as wanted:
            SupportMemory.load(path)
        assert told == [str(warning.message) for warning in wanted]
        abi.memory(path)  # nobody has to listen


def test_a_flipped_bit_anywhere_is_an_error(abi: Any, tmp_path: Path) -> None:
    file = _saved(tmp_path)
    for place in sorted({*range(0, 8 * len(file), 29), *range(64)}):
        damaged = bytearray(file)
        damaged[place >> 3] ^= 1 << (place & 7)
        with pytest.raises(Exception, match=r".") as error:
            abi.memory_of(bytes(damaged))
        assert error.value.kind == "input"
    abi.memory_of(file)


def hostile(file: bytes) -> dict[str, tuple[bytes, str]]:
    """Damaged and forged files, and what the error says of each."""
    length = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8 : 8 + length])
    body = file[8 + length :]
    alone = {key: value for key, value in header.items() if key != "__metadata__"}
    overlapping = header | {"keys.1": header["keys.1"] | {"data_offsets": header["keys.0"]["data_offsets"]}}
    prototype = header["prototype"]
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    unreadable = "is not a readable support memory"
    return {
        "nothing": (b"", unreadable),
        "seven bytes": (file[:7], unreadable),
        "cut off": (file[:-1], unreadable),
        "longer": (file + b"\0", unreadable),
        "a header of 2^63": (struct.pack("<Q", 2**63) + file[8:], unreadable),
        "a header of 99 MB": (struct.pack("<Q", 99_000_000) + file[8:], unreadable),
        "no JSON": (struct.pack("<Q", length) + b"x" * length + body, unreadable),
        "deep JSON": (struct.pack("<Q", len(deep)) + deep, unreadable),
        "a list": (_packed([], b""), unreadable),
        "no metadata": (_packed(alone, body), "version 1, 2 or 3"),
        "overlapping": (_packed(overlapping, body), unreadable),
        "negative": (_packed(header | {"prototype": prototype | {"shape": [-5]}}, body), unreadable),
        "broken": (_packed(header | {"prototype": prototype | {"shape": [5.0]}}, body), unreadable),
        "huge": (_packed(header | {"prototype": prototype | {"shape": [2**53, 2**53]}}, body), unreadable),
        "overflow": (_packed(header | {"prototype": prototype | {"shape": [2**62 + 5]}}, body), unreadable),
        "half floats": (
            _packed(_with_content(header | {"prototype": prototype | {"dtype": "F16", "shape": [10]}}), body),
            "does not hold the arrays",
        ),
        "version 4": (_rewritten(file, version=4), "version 1, 2 or 3"),
        "a version that is text": (_rewritten(file, version="3"), "version 1, 2 or 3"),
        "another format": (_rewritten(file, format="ntre-reference"), "version 1, 2 or 3"),
        "no digest": (_rewritten(file, sha256=None), "lacks the digest"),
        "capital digits": (_rewritten(file, sha256="A" * 64), "lacks the digest"),
        "a wrong digest": (_rewritten(file, sha256="a" * 64), "has been changed"),
        "a scale of zero": (_rewritten(file, version=2, sha256=None, offset=0, scale=0), "scale 0"),
        "no number": (_rewritten(file, version=2, sha256=None, offset="1", scale=1), "calibration that cannot be"),
        "true": (_rewritten(file, version=2, sha256=None, offset=True, scale=1), "calibration that cannot be"),
        "too large": (_rewritten(file, version=2, sha256=None, offset=1e39, scale=1), "calibration that cannot be"),
        "a score of two": (_rewritten(file, version=2, sha256=None, shot_scores=[2, 0]), "2 numbers from 0 to 1"),
        "a score too few": (_rewritten(file, version=2, sha256=None, shot_scores=[0.5]), "2 numbers from 0 to 1"),
        "NaN": (
            _rewritten(file[: len(file) - len(body)] + b"\xff" * len(body), version=2, sha256=None),
            "does not hold the arrays",
        ),
        "no keys": (
            _packed(
                _with_content(
                    {"__metadata__": header["__metadata__"], "prototype": prototype | {"data_offsets": [0, 20]}}
                ),
                body[:20],
            ),
            "does not hold the arrays",
        ),
        "no tensors": (_packed(_with_content({"__metadata__": header["__metadata__"]}), b""), "does not hold"),
        "a tensor more": (
            _packed(
                _with_content(header | {"extra": {"dtype": "U8", "shape": [0], "data_offsets": [len(body)] * 2}}), body
            ),
            "does not hold the arrays",
        ),
    }


@pytest.mark.filterwarnings("ignore:.*without a digest")
def test_hostile_files_are_refused_and_say_why(abi: Any, tmp_path: Path) -> None:
    for name, (content, words) in hostile(_saved(tmp_path)).items():
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(Exception, match=r".") as error:
            abi.memory(path)
        assert error.value.kind == "input", name
        assert words in str(error.value), name
        assert str(error.value).startswith(str(path)), name
        with pytest.raises(InputError) as theirs:
            SupportMemory.load(path)
        # what only depends on the parser may be told in other words
        if "not a readable" not in words:
            assert str(error.value) == str(theirs.value), name


def test_files_that_cannot_be_read_or_written_are_told(abi: Any, tmp_path: Path) -> None:
    drawn_memory().save(tmp_path / "saved")
    for path, words in ((tmp_path / "none", "does not exist or is not a file"), (tmp_path, "is not a file")):
        with pytest.raises(Exception, match=words):
            abi.memory(path)
    read = abi.memory(tmp_path / "saved")
    for path, words in ((tmp_path, "it is no plain file"), (tmp_path / "saved" / "x", "Cannot write")):
        with pytest.raises(Exception, match=words):
            read.save(path)
    read.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def _saved(folder: Path) -> bytes:
    drawn_memory().save(folder / "saved.safetensors")
    return (folder / "saved.safetensors").read_bytes()


def _packed(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _with_content(header: dict[str, Any], **changes: object) -> dict[str, Any]:
    """A header as version 2, so that no digest stands before what else is wrong."""
    changes = {"version": 2, "sha256": None} | changes
    content = json.loads(header["__metadata__"]["ntre"]) | changes
    return header | {"__metadata__": {"ntre": json.dumps({k: v for k, v in content.items() if v is not None})}}


def _rewritten(file: bytes, **changes: object) -> bytes:
    """The file with other entries of its metadata; None takes one out."""
    length = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8 : 8 + length])
    changes = {"version": json.loads(header["__metadata__"]["ntre"])["version"], "sha256": "0" * 64} | changes
    if "sha256" not in changes:
        changes["sha256"] = json.loads(header["__metadata__"]["ntre"])["sha256"]
    return _packed(_with_content(header, **changes), file[8 + length :])

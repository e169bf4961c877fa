"""Support memories that are no such thing, and unusual ones that are."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from ntre_deploy.runtime.calibration import Calibration
from ntre_deploy.runtime.support import SupportMemory

# a name that has to be escaped, twice, and one that tries to look like the digest's place
ODD_NAMES = {"quotes": 'Gäbel "7" \\ 日本', "like-a-digest": '\\"sha256\\":\\"' + "0" * 64, "empty": ""}


class Hostile(NamedTuple):
    """A file that must be refused, and words of the message in every runtime."""

    content: bytes
    words: tuple[str, ...] = ()


def drawn_memory(
    name: str, counts: tuple[int, ...], seed: int, *, channels: int = 5, depth: int = 4, model: str = "0123456789abcdef"
) -> SupportMemory:
    """A memory of as many shots as `counts`, with so many keys each."""
    rng = np.random.default_rng([seed, channels, depth, *counts])
    keys = tuple(_units(rng, depth, count) for count in counts)
    return SupportMemory(name, rng.normal(size=channels).astype(np.float32), keys, model)


def _units(rng: np.random.Generator, depth: int, count: int) -> NDArray[np.float32]:
    keys = np.abs(rng.normal(size=(depth, count))) + 1e-3
    unit: NDArray[np.float32] = (keys / np.linalg.norm(keys, axis=0)).astype(np.float32)
    return unit


def tensors_of(memory: SupportMemory) -> dict[str, NDArray[np.float32]]:
    """The arrays of a memory's file: `prototype` [C] and, for each shot n, `keys.n` [D, M]."""
    return {"prototype": memory.prototype} | {f"keys.{n}": keys for n, keys in enumerate(memory.keys)}


def packed(header: object, body: bytes) -> bytes:
    """A safetensors file of any header and any bytes behind it."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def older(memory: SupportMemory, version: int, **changes: object) -> bytes:
    """A memory as version 1 or 2 wrote it, with other entries of its metadata; None takes one out."""
    content: dict[str, Any] = {"format": "ntre-support", "version": version, "name": memory.name, "model": memory.model}
    if version > 1:
        content["shot_scores"] = memory.shot_scores
        content |= {} if memory.calibration is None else memory.calibration._asdict()
    content |= changes
    return _of_content(
        memory, {key: value for key, value in content.items() if key not in changes or value is not None}
    )


def _of_content(memory: SupportMemory, content: object) -> bytes:
    return save_tensors(tensors_of(memory), {"ntre": json.dumps(content, sort_keys=True)})


def rewritten(file: bytes, **changes: object) -> bytes:
    """A memory's file with other entries of its metadata and the old digest; None takes one out."""
    header, body = parted(file)
    content = json.loads(header["__metadata__"]["ntre"]) | changes
    header["__metadata__"]["ntre"] = json.dumps({k: v for k, v in content.items() if v is not None})
    return packed(header, body)


def parted(file: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def hostile_memories(file: bytes, memory: SupportMemory) -> dict[str, Hostile]:
    """Files that every runtime must refuse, by name.

    Args:
        file: of `memory`, as version 3 writes it.
        memory: of two shots, with scores and without a calibration.
    """
    return _broken_files(file) | _wrong_metadata(file, memory) | _wrong_arrays(memory)


def _broken_files(file: bytes) -> dict[str, Hostile]:
    header, body = parted(file)
    length = len(file) - len(body) - 8
    alone = {key: value for key, value in header.items() if key != "__metadata__"}
    first, second, prototype = header["keys.0"], header["keys.1"], header["prototype"]
    found = {
        "nothing": b"",
        "seven-bytes": file[:7],
        "header-only": file[: 8 + length],
        "cut-off": file[:-1],
        "longer": file + b"\0",
        "header-of-2-to-63": struct.pack("<Q", 2**63) + file[8:],
        "header-of-99-mb": struct.pack("<Q", 99_000_000) + file[8:],
        "no-json": struct.pack("<Q", length) + b"x" * length + body,
        "list": packed([], b""),
        "no-metadata": packed(alone, body),
        "metadata-of-numbers": packed(alone | {"__metadata__": {"ntre": 3}}, body),
        "overlapping": packed(header | {"keys.1": second | {"data_offsets": first["data_offsets"]}}, body),
        "negative-shape": packed(header | {"prototype": prototype | {"shape": [-5]}}, body),
        "huge-shape": packed(header | {"prototype": prototype | {"shape": [2**53, 2**53]}}, body),
        "offsets-past-the-end": packed(header | {"prototype": prototype | {"data_offsets": [0, 1 << 40]}}, body),
        "unknown-dtype": packed(header | {"prototype": prototype | {"dtype": "X"}}, body),
    }
    flipped = {}
    for name, at in {"length": 0, "header": 8 + length // 2, "data": len(file) - 1}.items():
        content = bytearray(file)
        content[at] ^= 1
        flipped[f"flipped-in-{name}"] = bytes(content)
    plain = {name: Hostile(content) for name, content in (found | flipped).items()}
    return plain | {"flipped-in-data": Hostile(flipped["flipped-in-data"], ("has been changed: its SHA-256",))}


def _wrong_metadata(file: bytes, memory: SupportMemory) -> dict[str, Hostile]:
    of_version, no_digest = ("is no support memory of version 1, 2 or 3",), ("lacks the digest of its content",)
    shots = len(memory.keys)
    scores, calibration = (f"{shots} numbers from 0 to 1 are expected",), ("holds a calibration that cannot be",)
    digested = json.loads(parted(file)[0]["__metadata__"]["ntre"])["sha256"]
    found = {
        "version-4": Hostile(rewritten(file, version=4), of_version),
        "version-0": Hostile(rewritten(file, version=0), of_version),
        "version-as-text": Hostile(rewritten(file, version="3"), of_version),
        "no-version": Hostile(rewritten(file, version=None), of_version),
        "another-format": Hostile(rewritten(file, format="ntre-reference"), of_version),
        "metadata-no-json": Hostile(save_tensors(tensors_of(memory), {"ntre": "{"}), of_version),
        "metadata-a-list": Hostile(_of_content(memory, []), of_version),
        "no-digest": Hostile(rewritten(file, sha256=None), no_digest),
        "digest-in-capitals": Hostile(file.replace(digested.encode(), digested.upper().encode()), no_digest),
        "digest-too-short": Hostile(rewritten(file, sha256="a" * 63), no_digest),
        "digest-a-number": Hostile(rewritten(file, sha256=7), no_digest),
        "wrong-digest": Hostile(rewritten(file, sha256="a" * 64), ("has been changed: its SHA-256",)),
        "another-name": Hostile(rewritten(file, name="another"), ("has been changed: its SHA-256",)),
        "version-2-wrong-digest": Hostile(older(memory, 2, sha256="a" * 64), ("has been changed: its SHA-256",)),
    }
    wrong_scales: dict[str, object] = {"zero": 0, "negative": -1.0, "too-large": 1e39, "true": True, "text": "1"}
    for name, scale in (wrong_scales | {"list": []}).items():
        found[f"scale-{name}"] = Hostile(older(memory, 2, offset=0.25, scale=scale), calibration)
    wrong_offsets: dict[str, object] = {"too-large": -1e39, "text": "1", "endless": 10**400}
    for name, offset in wrong_offsets.items():
        found[f"offset-{name}"] = Hostile(older(memory, 2, offset=offset, scale=1.0), calibration)
    for name, values in {"few": [0.5], "above-1": [0.5, 1.5], "below-0": [-0.1, 0.5], "true": [0.5, True]}.items():
        found[f"scores-{name}"] = Hostile(older(memory, 2, shot_scores=values), scores)
    return found | {
        "scores-a-number": Hostile(older(memory, 2, shot_scores=0.5), scores),
        "scores-an-object": Hostile(older(memory, 2, shot_scores={"a": 1}), scores),
    }


def _wrong_arrays(memory: SupportMemory) -> dict[str, Hostile]:
    arrays = tensors_of(memory)
    prototype, first = arrays["prototype"], arrays["keys.0"]

    def with_value(array: NDArray[np.float32], value: float) -> NDArray[np.float32]:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    wrong: dict[str, Mapping[str, NDArray[Any]]] = {
        "no-keys": {"prototype": prototype},
        "no-prototype": {"keys.0": first},
        "nothing-but-metadata": {},
        "gap-in-keys": {"prototype": prototype, "keys.0": first, "keys.2": first},
        "tensor-too-many": arrays | {"extra": np.zeros(1, np.uint8)},
        "prototype-of-two-axes": arrays | {"prototype": prototype[None]},
        "prototype-empty": arrays | {"prototype": prototype[:0]},
        "prototype-half": arrays | {"prototype": prototype.astype(np.float16)},
        "prototype-double": arrays | {"prototype": prototype.astype(np.float64)},
        "keys-of-one-axis": arrays | {"keys.0": first[0]},
        "keys-of-no-depth": {"prototype": prototype, "keys.0": first[:0]},
        "keys-of-two-depths": arrays | {"keys.0": first[:-1]},
        "keys-of-integers": arrays | {"keys.0": np.zeros(first.shape, np.int32)},
        "prototype-nan": arrays | {"prototype": with_value(prototype, np.nan)},
        "keys-infinite": arrays | {"keys.0": with_value(first, np.inf)},
    }
    content = {"format": "ntre-support", "version": 1, "name": memory.name, "model": memory.model}
    words = ("does not hold the arrays of a support memory",)
    text = {"ntre": json.dumps(content)}
    whole = {name: save_tensors({k: np.ascontiguousarray(v) for k, v in a.items()}, text) for name, a in wrong.items()}
    return {f"array-{name}": Hostile(file, words) for name, file in whole.items()}


def good_memories(seed: int) -> dict[str, tuple[bytes | SupportMemory, SupportMemory, bool]]:
    """Memories that are read: what is in the file, what it must give, and whether with a warning."""
    plain = replace(drawn_memory("fork", (3, 4), seed), shot_scores=(0.25, 1e-07))
    calibrated = replace(plain, calibration=Calibration(0.25, 1e-05))
    bare = replace(plain, shot_scores=None)
    found: dict[str, tuple[bytes | SupportMemory, SupportMemory, bool]] = {
        "version-3": (plain, plain, False),
        "version-3-calibrated": (calibrated, calibrated, False),
        "version-2": (older(calibrated, 2), calibrated, True),
        "version-2-without-scale": (older(plain, 2, offset=0.5), replace(plain, calibration=Calibration(0.5)), True),
        "version-1": (older(bare, 1), bare, True),
        # a shot of a target that vanished has no keys
        "no-keys-in-a-shot": (lone := drawn_memory("lone", (0, 2), seed), lone, False),
        # the order of the keys is that of numbers, not of texts
        "twelve-shots": (many := drawn_memory("many", tuple(range(1, 13)), seed), many, False),
        "unknown-entries": (older(bare, 1, colour="red", nested={"a": [1, None]}), bare, True),
    }
    for name, text in ODD_NAMES.items():
        item = replace(plain, name=text)
        found[f"name-{name}"] = (item, item, False)
    return found

"""Support memories: what the network keeps of annotated images, so that queries never touch them again."""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.files import atomic_file, reading
from ntre_deploy.runtime.calibration import NEUTRAL, Calibration

Float = NDArray[np.float32]

FORMAT = "ntre-support"
# 1 had neither calibration nor shot scores, 2 no digest; both are still read
VERSION = 3
_READ = (1, 2, 3)
_DIGESTED = 3
_KEY = "ntre"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# what stands in the digest's place while the file is hashed
_ZEROS = "0" * 64


@dataclass(frozen=True, eq=False)
class SupportMemory:
    """One class, from one or more annotated images.

    Attributes:
        name: of the class.
        prototype: float32 [C], mean over the shots.
        keys: for each shot float32 [D, M], L2-normalised columns, only positions inside the mask.
        model: id of the model that made it; another model's queries cannot use it.
        calibration: what makes its margins comparable with those of the classes that it was encoded with; None where
            it was encoded alone.
        shot_scores: for each shot the IoU of its mask with the one that the other shots give, in [0, 1]; None with one
            shot, or where it was not computed.
    """

    name: str
    prototype: Float
    keys: tuple[Float, ...]
    model: str
    calibration: Calibration | None = None
    shot_scores: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        more = "" if self.calibration is None else ", calibrated"
        if self.shot_scores is not None:
            more += f", shot scores {', '.join(f'{score:.2f}' for score in self.shot_scores)}"
        shots = f"{self.shots} shot{'' if self.shots == 1 else 's'}"
        return f"SupportMemory({self.name!r}, {shots}, model {self.model[:12]}{more})"

    @property
    def shots(self) -> int:
        """Number of annotated images."""
        return len(self.keys)

    def uncalibrated(self) -> "SupportMemory":
        """The same memory without its calibration."""
        return replace(self, calibration=None)

    def save(self, path: str | Path) -> None:
        """Write `to_bytes` as a file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        with atomic_file(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The memory as safetensors with a SHA-256 of the file; the same bytes each time."""
        tensors = {"prototype": self.prototype} | {f"keys.{i}": k for i, k in enumerate(self.keys)}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "model": self.model,
            "shot_scores": self.shot_scores,
            "sha256": _ZEROS,
        }
        if self.calibration is not None:
            content |= self.calibration._asdict()
        metadata = {_KEY: json.dumps(content, sort_keys=True)}  # several entries would be ordered at random
        file: bytes = save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
        return _with_digest(file)

    @classmethod
    def load(cls, path: str | Path) -> "SupportMemory":
        """Read a memory written by `save`; one of before there were digests is read with an `NtreWarning`.

        Raises:
            InputError: not such a file, its digest is not that of its bytes, or its arrays or figures are not those of
                a memory.
        """
        path = Path(path)
        with reading(path, "Support memory"):
            if not path.is_file():
                raise InputError(f"Support memory {path} does not exist or is not a file.")
            file = path.read_bytes()
        return cls.from_bytes(file, str(path))

    @classmethod
    def from_bytes(cls, file: bytes, path: str = "The support memory") -> "SupportMemory":
        """Read a memory from the bytes of `to_bytes`, or of a file that `save` wrote.

        Args:
            path: what to call it in messages.

        Raises:
            InputError: as `load`.
        """
        try:
            content = _content(_metadata(file).get(_KEY, ""))
            if content.get("format") != FORMAT or content.get("version") not in _READ:
                known = f"{', '.join(map(str, _READ[:-1]))} or {_READ[-1]}"
                raise InputError(f"{path} is no support memory of version {known}; make one with `encode_support`.")
            _check_digest(path, file, content)
            tensors = load_tensors(file)
        # a dtype that NumPy lacks raises AttributeError or KeyError
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{path} is not a readable support memory: {error}.") from error
        prototype = tensors.pop("prototype", np.empty(0))
        keys = [tensors.get(f"keys.{i}", np.empty(0)) for i in range(len(tensors))]
        right = (
            bool(keys)
            and all(a.dtype == np.float32 and np.isfinite(a).all() for a in (prototype, *keys))
            and prototype.size > 0
            and prototype.ndim == 1
            and all(k.ndim == 2 and k.shape[0] == keys[0].shape[0] > 0 for k in keys)
        )
        if not right:
            raise InputError(f"{path} does not hold the arrays of a support memory; make it again.")
        calibration = None
        if "offset" in content or "scale" in content:
            offset, scale = _number(content.get("offset", 0.0)), _number(content.get("scale", 1.0))
            if offset is None or scale is None or scale <= 0:
                raise InputError(
                    f"{path} holds a calibration that cannot be (offset {content.get('offset')}, scale "
                    f"{content.get('scale')}); a finite offset and a scale above 0 are expected: make it again."
                )
            calibration = Calibration(offset, scale)
        scores = _scores(content.get("shot_scores"), len(keys))
        if scores is None and content.get("shot_scores") is not None:
            raise InputError(
                f"{path} holds shot scores that cannot be; {len(keys)} numbers from 0 to 1 are expected: make it again."
            )
        name, model = str(content.get("name", "")), str(content.get("model", ""))
        return cls(name, prototype, tuple(keys), model, calibration, scores)


def _with_digest(file: bytes) -> bytes:
    """A safetensors file whose digest is still zeros, with the digest in their place."""
    # JSON in JSON: inside a class name, the quotes would be escaped once more
    name = rb"\"sha256\": \""
    place = file.index(name + _ZEROS.encode()) + len(name)
    return file[:place] + hashlib.sha256(file).hexdigest().encode() + file[place + len(_ZEROS) :]


def _metadata(file: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose header is whole.

    Raises:
        SafetensorError: it is not.
    """
    deserialize(file)  # type: ignore[no-untyped-call]
    header: dict[str, dict[str, str]] = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return header.get("__metadata__", {})


def _check_digest(path: str, file: bytes, content: dict[str, object]) -> None:
    digest = content.get("sha256")
    if digest is None and content["version"] != _DIGESTED:
        warnings.warn(
            f"{path} is of version {content['version']}, without a digest: damage to it would go unseen; write it "
            f"anew with `ntre segment BUNDLE --memory {path} --save-memory FOLDER`.",
            NtreWarning,
            stacklevel=4,
        )
        return
    # in lower case only, as every bit of the file counts
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InputError(f"{path} lacks the digest of its content, so it is damaged; copy it again or encode it again.")
    if hashlib.sha256(file.replace(digest.encode(), _ZEROS.encode(), 1)).hexdigest() != digest:
        raise InputError(
            f"{path} has been changed: its SHA-256 is not the one that it carries; copy it again or encode it again."
        )


def _content(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _number(value: object) -> float | None:
    """A finite number that float32 holds too; None for anything else."""
    if type(value) not in (int, float) or not abs(value) <= float(np.finfo(np.float32).max):  # type: ignore[arg-type]
        return None
    return float(value)  # type: ignore[arg-type]


def _scores(values: object, shots: int) -> tuple[float, ...] | None:
    if not isinstance(values, list) or len(values) != shots:
        return None
    numbers = [_number(value) for value in values]
    return tuple(n for n in numbers if n is not None) if all(n is not None and 0 <= n <= 1 for n in numbers) else None


def compact_keys(keys: Float) -> Float:
    """Drop the zero columns of keys [D, h*w] -> [D, M].

    Exact: features behind a ReLU make every similarity >= 0, so a zero column never wins the maximum.
    """
    return np.ascontiguousarray(keys[:, keys.any(axis=0)])


def calibrations(memory: SupportMemory | Sequence[SupportMemory]) -> list[Calibration]:
    """What the margins of these classes are compared by: neutral for one class, and where any was never calibrated."""
    memories = [memory] if isinstance(memory, SupportMemory) else list(memory)
    found = [m.calibration for m in memories]
    known = [c for c in found if c is not None]
    return known if len(known) == len(found) > 1 else [NEUTRAL] * len(found)

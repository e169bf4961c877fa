"""The manifest of a bundle: typed, versioned, and read as the hostile file that it may be."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading
from ntre_deploy.runtime.inputspec import MAX_INPUT_SIZE, InputSpec
from ntre_deploy.runtime.signature import SIGNATURE

FORMAT = "ntre-bundle"
# 1 had keys of one length for all shots in the query graph's input
SCHEMA = 2
MANIFEST = "manifest.json"
# how the runtime prepares an image; another version may know others, and must not be misread by this one
CONVENTION = {
    "channels": "RGB",
    "scale": "(pixel - mean) / std, pixels in 0..255",
    "protocol": "exact",
    "resize": "letterbox at the top left, bilinear with pixel centres aligned, area average below factor 0.5",
}
_MAX_BYTES = 4 << 20
_MAX_NUMBER = 1e6
# no separators, drive letters, hidden names or line breaks, and short enough for every file system
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        name: plain file name inside the bundle's folder.
        role: `support`, `query`, `self-test` or `reference`.
        engine: the engine that it was made for, such as `onnx`; empty for the last two.
        precision_asked, precision_found: such as `fp16`; found is read back from the file that was built.
        size: bytes.
        sha256: hexadecimal.
        details: engine-specific facts, such as the opset or the build environment (JSON values).
    """

    name: str
    role: str
    engine: str
    precision_asked: str
    precision_found: str
    size: int
    sha256: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineEntry:
    """An engine that compiles graphs of the bundle by itself when it loads, as the exporter built and verified it.

    Attributes:
        engine: such as `openvino`.
        precision_asked, precision_found: found is read back from the compiled graphs.
        support, query: names of the files that it reads.
        details: engine-specific facts, such as the kernels that ran and the machine (JSON values).
    """

    engine: str
    precision_asked: str
    precision_found: str
    support: str
    query: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelEntry:
    """The network behind the graphs.

    Attributes:
        id: identifies weights and input size; a support memory belongs to one id.
        config: `ModelConfig` as JSON values.
        checkpoint_sha256: of the checkpoint file.
        origin: what the checkpoint says of its weights.
        prototype_channels, key_channels: C and D.
        feature_size: (h, w) of the logits.
    """

    id: str
    config: dict[str, Any]
    checkpoint_sha256: str
    origin: dict[str, Any]
    prototype_channels: int
    key_channels: int
    feature_size: tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """All that a bundle says of itself; `verification` holds the exporter's measurements (JSON values)."""

    name: str
    model: ModelEntry
    input: InputSpec
    files: tuple[FileEntry, ...]
    verification: list[dict[str, Any]]
    versions: dict[str, str]
    engines: tuple[EngineEntry, ...] = ()

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        content: dict[str, Any] = {"format": FORMAT, "schema": SCHEMA} | asdict(self)
        content["input"] |= CONVENTION
        return json.dumps(content, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle.

    Raises:
        InputError: as `manifest_bytes` and `parse_manifest`.
    """
    return parse_manifest(folder / MANIFEST, manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """The bytes of `manifest.json` of a bundle, which nothing has looked into yet.

    Raises:
        InputError: no bundle, or a manifest that is too large or cannot be read.
    """
    path = folder / MANIFEST
    with reading(folder, "Bundle"):
        if not folder.is_dir():
            raise InputError(
                f"Bundle {folder} does not exist or is not a folder; make one with `ntre export CHECKPOINT`."
            )
        if not path.is_file() or path.is_symlink():
            raise InputError(f"{folder} is no bundle: it has no {MANIFEST}; make one with `ntre export CHECKPOINT`.")
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(
                f"{path} is larger than {_MAX_BYTES >> 20} MiB, as no manifest is; export the bundle again."
            )
        return path.read_bytes()


def parse_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest in the bytes of the file at `path`.

    Raises:
        InputError: another schema version, a missing or wrong entry, or a name that leaves the folder.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); export the bundle again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of an ntre bundle.")
    schema = content.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(
            f"{path} has schema version {_shown(schema)}; this version of ntre reads {SCHEMA}: "
            "install the version that wrote it, or export the checkpoint again."
        )
    try:
        return _parse(content)
    except InputError as error:
        raise InputError(f"{path}: {error} Export the bundle again.") from error
    except KeyError as error:
        raise InputError(f"{path} lacks the entry {error}; export the bundle again.") from error


def _parse(content: dict[str, Any]) -> Manifest:
    model, spec = _dict(content["model"], "model"), _dict(content["input"], "input")
    files = tuple(_parse_file(_dict(entry, "a file")) for entry in _list(content["files"], "files"))
    names = [entry.name for entry in files]
    if len(set(names)) != len(names):
        raise InputError("a file is listed twice.")
    kinds = [(entry.role, entry.engine, entry.precision_found) for entry in files]
    if len(set(kinds)) != len(kinds):
        raise InputError("two files have the same role, engine and precision.")
    # bundles from before these engines have no such list
    engines = tuple(_parse_engine(_dict(e, "an engine"), files) for e in _list(content.get("engines", []), "engines"))
    if len({(e.engine, e.precision_found) for e in engines}) != len(engines):
        raise InputError("two engines have the same name and precision.")
    size = _positive(spec["size"], "input.size")
    if size > MAX_INPUT_SIZE:
        raise InputError(f"input.size is {size}; at most {MAX_INPUT_SIZE} is supported.")
    for key, value in CONVENTION.items():
        if spec[key] != value:
            raise InputError(f"input.{key} is {_shown(spec[key])}, which this version of ntre does not know.")
    sides = [_positive(v, "feature_size") for v in _list(model["feature_size"], "feature_size", 2)]
    mean = [_number(v, "mean") for v in _list(spec["mean"], "mean", 3)]
    std = [_number(v, "std") for v in _list(spec["std"], "std", 3)]
    if min(std) <= 0:
        raise InputError("std must be above 0.")
    versions = _dict(content["versions"], "versions")
    return Manifest(
        name=_text(content["name"], "name"),
        model=ModelEntry(
            id=_text(model["id"], "model.id"),
            config=_dict(model["config"], "model.config"),
            checkpoint_sha256=_text(model["checkpoint_sha256"], "model.checkpoint_sha256"),
            origin=_dict(model["origin"], "model.origin"),
            prototype_channels=_positive(model["prototype_channels"], "prototype_channels"),
            key_channels=_positive(model["key_channels"], "key_channels"),
            feature_size=(sides[0], sides[1]),
        ),
        input=InputSpec(size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
        files=files,
        verification=[_dict(v, "verification") for v in _list(content["verification"], "verification")],
        versions={_text(k, "versions"): _text(v, "versions") for k, v in versions.items()},
        engines=engines,
    )


def _parse_file(entry: dict[str, Any]) -> FileEntry:
    name = _text(entry["name"], "file name")
    # a manifest may come from anywhere: its names must not reach outside the folder, on any system
    if not _PLAIN_NAME.fullmatch(name) or name.lower() in (MANIFEST, SIGNATURE):
        raise InputError(f"the file name {_shown(name)} leaves the bundle's folder or is not allowed.")
    return FileEntry(
        name=name,
        role=_text(entry["role"], "role"),
        engine=_text(entry["engine"], "engine"),
        precision_asked=_text(entry["precision_asked"], "precision_asked"),
        precision_found=_text(entry["precision_found"], "precision_found"),
        size=_positive(entry["size"], "size"),
        sha256=_text(entry["sha256"], "sha256"),
        details=_dict(entry["details"], "details"),
    )


def _parse_engine(entry: dict[str, Any], files: tuple[FileEntry, ...]) -> EngineEntry:
    names = {}
    for role in ("support", "query"):
        names[role] = _text(entry[role], role)
        if names[role] not in {file.name for file in files if file.role == role}:
            raise InputError(f"an engine reads {_shown(names[role])}, which is no {role} graph of the bundle.")
    return EngineEntry(
        engine=_text(entry["engine"], "engine"),
        precision_asked=_text(entry["precision_asked"], "precision_asked"),
        precision_found=_text(entry["precision_found"], "precision_found"),
        support=names["support"],
        query=names["query"],
        details=_dict(entry["details"], "details"),
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _dict(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is {_shown(value)} where an object is expected.")
    return value


def _list(value: object, what: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        expected = "a list" if length is None else f"a list of {length}"
        raise InputError(f"{what} is {_shown(value)} where {expected} is expected.")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} is {_shown(value)} where a text is expected.")
    return value


def _number(value: object, what: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < _MAX_NUMBER:
        raise InputError(f"{what} holds {_shown(value)} where a number is expected.")
    return float(value)


def _positive(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} is {_shown(value)} where a whole number from 1 on is expected.")
    return value

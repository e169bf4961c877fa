"""The manifest of a bundle: typed, versioned, and read as the hostile file that it may be."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.image import InputSpec

FORMAT = "ntre-bundle"
SCHEMA = 1
MANIFEST = "manifest.json"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        name: plain file name inside the bundle's folder.
        role: `support`, `query` or `self-test`.
        engine: `onnx`; empty for the self-test.
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

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        convention = {
            "channels": "RGB",
            "scale": "(pixel - mean) / std, pixels in 0..255",
            "protocol": "exact",
            "resize": "letterbox at the top left, bilinear with pixel centres aligned, area average below factor 0.5",
        }
        content: dict[str, Any] = {"format": FORMAT, "schema": SCHEMA} | asdict(self)
        content["input"] |= convention
        return json.dumps(content, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle.

    Raises:
        InputError: no bundle, another schema version, a missing or wrong entry, or a name that leaves the folder.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"Bundle {folder} does not exist or is not a folder; make one with `ntre export CHECKPOINT`.")
    if not path.is_file():
        raise InputError(f"{folder} is no bundle: it has no {MANIFEST}; make one with `ntre export CHECKPOINT`.")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"{path} is larger than {_MAX_BYTES >> 20} MiB, which no manifest is; export the bundle again."
        )
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); export the bundle again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of an ntre bundle.")
    if content.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema version {content.get('schema')!r}; this version of ntre reads {SCHEMA}: "
            "install the version that wrote it, or export the checkpoint again."
        )
    try:
        return _parse(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} lacks or garbles an entry: {error!r}; export the bundle again.") from error


def _parse(content: dict[str, Any]) -> Manifest:
    model, spec = content["model"], content["input"]
    files = tuple(_parse_file(entry) for entry in content["files"])
    names = [entry.name for entry in files]
    if len(set(names)) != len(names):
        raise InputError("a file is listed twice; export the bundle again.")
    mean, std = (tuple(float(v) for v in spec[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise InputError("mean and std must be three numbers each, std above 0.")
    h, w = (_positive(v, "feature_size") for v in model["feature_size"])
    return Manifest(
        name=_text(content["name"], "name"),
        model=ModelEntry(
            id=_text(model["id"], "model.id"),
            config=dict(model["config"]),
            checkpoint_sha256=_text(model["checkpoint_sha256"], "model.checkpoint_sha256"),
            origin=dict(model["origin"]),
            prototype_channels=_positive(model["prototype_channels"], "prototype_channels"),
            key_channels=_positive(model["key_channels"], "key_channels"),
            feature_size=(h, w),
        ),
        input=InputSpec(_positive(spec["size"], "input.size"), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
        files=files,
        verification=list(content["verification"]),
        versions=dict(content["versions"]),
    )


def _parse_file(entry: dict[str, Any]) -> FileEntry:
    name = _text(entry["name"], "file name")
    # a manifest may come from anywhere: its names must not reach outside the folder, on any system
    if name in (".", "..", MANIFEST) or PurePosixPath(name).name != name or "\\" in name or ":" in name or "\0" in name:
        raise InputError(f"the file name {name!r} leaves the bundle's folder or is not allowed.")
    return FileEntry(
        name=name,
        role=_text(entry["role"], "role"),
        engine=_text(entry["engine"], "engine"),
        precision_asked=_text(entry["precision_asked"], "precision_asked"),
        precision_found=_text(entry["precision_found"], "precision_found"),
        size=_positive(entry["size"], "size"),
        sha256=_text(entry["sha256"], "sha256"),
        details=dict(entry["details"]),
    )


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} is {value!r} where a text is expected.")
    return value


def _positive(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} is {value!r} where a whole number from 1 on is expected.")
    return value

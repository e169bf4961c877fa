"""The files with which a page runs a bundle by itself: the web runtime, onnxruntime-web, and the bundle's own."""

import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import SELF_TEST, Bundle
from ntre_deploy.runtime.manifest import MANIFEST, FileEntry

# of onnxruntime-web's `dist`, what each engine loads (runtimes/web/README.md)
ORT_FILES = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}
# of the package, as runtimes/web/package.json has it
_LEAST, _BELOW = (1, 30), (2, 0)
_GET = "get it with `npm install onnxruntime-web` and give --ort node_modules/onnxruntime-web"


@dataclass(frozen=True)
class OrtFiles:
    """onnxruntime-web in a folder.

    Attributes:
        folder: its `dist`.
        engines: those of `ORT_FILES` that are to be had.
    """

    folder: Path
    engines: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files that these engines load."""
        return tuple(name for engine in self.engines for name in ORT_FILES[engine])

    @property
    def engine(self) -> str:
        """What the web runtime is to take: `auto` where WebGPU may be tried too, else `wasm`."""
        return "auto" if "webgpu" in self.engines else "wasm"


class WebFiles:
    """What a page that is served runs a bundle with, file by file; nothing else of either folder is given away.

    Args:
        bundle: of it, the manifest, the self-test and the ONNX graphs in fp32.

    Raises:
        InputError: as `web_names`.
    """

    def __init__(self, bundle: Bundle, ort: OrtFiles) -> None:
        self._bundle = bundle
        self._ort = ort
        # the page's worker can send no token, so that it stands in the address of the bundle
        self._key = secrets.token_urlsafe(24)
        self._names = web_names(bundle, "fp32")

    def settings(self, warn: Callable[[Mapping[str, Any]], str | None]) -> dict[str, Any]:
        """What the page is told, for JSON; `warn` as of `Studio`."""
        return {
            "bundle": f"bundle/{self._key}/",
            "name": self._bundle.folder.resolve().name,
            "ort": "ort/",
            "engine": self._ort.engine,
            "precision": "fp32",
            "note": warn(self._bundle.manifest.model.origin),
        }

    def bundle_file(self, key: str, name: str) -> Path | None:
        """A file of the bundle, for those who were told the key; None for others."""
        allowed = hmac.compare_digest(key.encode("utf-8", "replace"), self._key.encode()) and name in self._names
        return self._bundle.folder / name if allowed else None

    def ort_file(self, name: str) -> Path | None:
        """A file of onnxruntime-web; None where the page needs none of that name."""
        return self._ort.folder / name if name in self._ort.names else None


def find_ort(folder: Path | None, *, webgpu: bool) -> OrtFiles:
    """onnxruntime-web in a folder of `npm install`, or in its `dist`.

    Args:
        folder: None is what a user has not given.
        webgpu: the files for WebGPU too.

    Raises:
        InputError: it is not there, not whole, or of another version than the web runtime works with.
    """
    if folder is None:
        raise InputError(f"The page needs onnxruntime-web, which pip does not install: {_GET}.")
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    engines = ("wasm", "webgpu") if webgpu else ("wasm",)
    found = OrtFiles(dist, engines)
    if missing := [name for name in found.names if not (dist / name).is_file()]:
        raise InputError(f"{folder} does not hold onnxruntime-web ({missing[0]} is missing): {_GET}.")
    package = dist.parent / "package.json"
    if package.is_file():
        version = _version(package)
        if version is not None and not _LEAST <= version < _BELOW:
            told = ".".join(map(str, version))
            raise InputError(f"{folder} holds onnxruntime-web {told}; 1.30 or newer, below 2, is needed: {_GET}.")
    return found


def _version(package: Path) -> tuple[int, int] | None:
    try:
        content = json.loads(package.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("name") != "onnxruntime-web":
        return None
    parts = re.match(r"(\d+)\.(\d+)", str(content.get("version")))
    return None if parts is None else (int(parts[1]), int(parts[2]))


def runtime_folder() -> Path:
    """The modules of `runtimes/web/src`, which are installed as `ntre_deploy.studio.web`.

    Raises:
        InputError: the installation lacks them.
    """
    here = Path(__file__).parent
    # the second is where an editable installation leaves them
    for folder in (here / "web", here.parents[1] / "runtimes" / "web" / "src"):
        if (folder / "index.js").is_file():
            return folder
    raise InputError("The web runtime is not installed; install ntre_deploy anew.")


def web_entries(bundle: Bundle, precision: str) -> Iterator[FileEntry]:
    """What the web runtime asks of a bundle beside its manifest.

    Raises:
        InputError: the bundle has no ONNX graphs in that precision, or no self-test.
    """
    for role in ("support", "query"):
        entry = bundle.entry(role, "onnx", precision)
        if entry is None:
            there = ", ".join(bundle.precisions("onnx")) or "none"
            raise InputError(
                f"{bundle.folder} has no ONNX graphs in {precision}, which the page runs (there is {there}); export it "
                f"with --precision {precision}."
            )
        yield entry
    found = bundle.entry("self-test")
    if found is None:
        raise InputError(f"{bundle.folder} has no self-test ({SELF_TEST}); export it again.")
    yield found


def web_names(bundle: Bundle, precision: str) -> tuple[str, ...]:
    """Names of the files that the web runtime asks of a bundle, the manifest first.

    Raises:
        InputError: as `web_entries`.
    """
    return (MANIFEST, *(entry.name for entry in web_entries(bundle, precision)))

"""The C++ runtime, built and installed once in a run as a user would; tests say what is missing where it cannot be."""

import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from ntre_deploy.data.procedural import CLASSES, render_scene

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "runtimes" / "cpp"
_SECONDS = 900


class Installed(NamedTuple):
    """The C++ runtime.

    Attributes:
        prefix: where it is installed: `include`, `lib`, `bin`.
        library: the shared library.
        build: the folder that it was built in.
        openvino: folder of the CMake files of the OpenVINO that it was built with; None without an engine.
    """

    prefix: Path
    library: Path
    build: Path
    openvino: Path | None


def _openvino() -> Path | None:
    spec = importlib.util.find_spec("openvino")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "cmake"


def _missing() -> str | None:
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    if not any(name and shutil.which(name) for name in compilers):
        return "no C++ compiler: the C++ runtime cannot be built"
    return None if shutil.which("cmake") else "no cmake: the C++ runtime cannot be built"


def _configure(build: Path, prefix: Path, openvino: Path | None) -> list[str]:
    command = ["cmake", "-S", str(SOURCES), "-B", str(build), f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DNTRE_WERROR=ON"]
    command += ["-DNTRE_OPENVINO=OFF"] if openvino is None else [f"-DOpenVINO_DIR={openvino}"]
    command += ["-G", "Ninja"] if shutil.which("ninja") else []
    # such as sanitizers
    return [*command, *shlex.split(os.environ.get("NTRE_CPP_OPTIONS", ""))]


@pytest.fixture(scope="session")
def installed() -> Installed:
    """The C++ runtime with OpenVINO where that is installed, and without an engine elsewhere."""
    if reason := _missing():
        pytest.skip(reason)
    openvino = _openvino()
    # one folder for the run, as the graphs have
    root = Path(os.environ["NTRE_GRAPH_CACHE"]) / "cpp"
    root.mkdir(exist_ok=True)
    build, prefix = root / "build", root / "prefix"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            # a sanitizer that is loaded before Python is not for compilers
            plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            done = _run(_configure(build, prefix, openvino), env=plain)
            if done.returncode and ("Could NOT find" in done.stderr or "Could not find a package" in done.stderr):
                pytest.skip("the C++ runtime cannot be built: nlohmann-json or OpenSSL's headers are missing")
            assert done.returncode == 0, done.stderr
            done = _run(["cmake", "--build", str(build), "--target", "install", "--parallel", "2"], env=plain)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr
            (root / "done").touch()
    (library,) = prefix.glob("lib*/**/libntre.so")
    return Installed(prefix, library, build, openvino)


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, **options)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command; what it printed is text."""
    return _run


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def abi(installed: Installed) -> Any:
    """The C ABI through ctypes: an `Abi` of `abi.py`."""
    return _load(Path(__file__).parent / "abi.py").Abi(installed.library)


@pytest.fixture(scope="session")
def cpp_bundle() -> Path:
    """The demo model for OpenVINO in fp32; tests must not change it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    out = Path(tempfile.mkdtemp(dir=os.environ["NTRE_GRAPH_CACHE"])) / "demo.ntre"
    checkpoint = REPOSITORY / "ntre_deploy" / "assets" / "demo.safetensors"
    export_bundle(checkpoint, out, ExportOptions(engines=("openvino",)))
    return out


@pytest.fixture(scope="session")
def scene() -> Callable[[int], tuple[Any, Any, str]]:
    """A rendered scene by its number: image, mask of its target and the target's class."""

    def scene(number: int) -> tuple[Any, Any, str]:
        rendered = render_scene(number, 31)
        return rendered.image, (rendered.labels == rendered.target + 1).astype(np.uint8), CLASSES[rendered.target]

    return scene

"""The CUDA driver on host memory, which `test_on_host_driver.py` puts in place; elsewhere nothing here is collected."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

if "NTRE_HOST_DRIVER" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

_ALIVE = ("memory", "pinned", "streams", "events", "graphs", "contexts", "modules")


class HostDriver:
    """What the driver counts, and what it is told to do."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def get(self, name: str) -> int:
        return ctypes.c_long.in_dll(self._library, f"host_{name}").value

    def set(self, name: str, value: int) -> None:
        ctypes.c_long.in_dll(self._library, f"host_{name}").value = value

    def alive(self) -> dict[str, int]:
        """What was made and not freed yet."""
        return {name: n for name in _ALIVE if (n := self.get(f"{name}_alive"))}


@pytest.fixture
def host() -> Iterator[HostDriver]:
    """The driver; every test must leave nothing behind."""
    driver = HostDriver(ctypes.CDLL(os.environ["NTRE_HOST_DRIVER"]))
    before = driver.get("limit")
    yield driver
    driver.set("limit", before)
    driver.set("fail_launch", 0)


@pytest.fixture(scope="session")
def exported() -> Path:
    """The tiny bundle of the process that started this one."""
    return Path(os.environ["NTRE_HOST_FILES"].split(":")[0])


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """Its checkpoint."""
    return Path(os.environ["NTRE_HOST_FILES"].split(":")[1])


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install a double of a recorded version as `tensorrt`."""
    spec = spec_from_file_location("tensorrt_double", Path(__file__).parents[2] / "tensorrt_double.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def install(version: str = "10.16.1.11", name: str = "tensorrt") -> Any:
        made = module.Double(name, version)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return install


@pytest.fixture(scope="session")
def limits() -> Any:
    """What the plans take at once."""
    from ntre_deploy.plans.options import TensorRtOptions

    return TensorRtOptions(max_batch=2, max_classes=3, max_shots=2)


@pytest.fixture(scope="session")
def plans() -> dict[str, Path]:
    """A bundle for each version, as `ntre export --engine trt` writes it."""
    return {}


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs from a bundle: PyTorch's exporter alone takes seconds, and everything after it is real."""

    def copy(graph: object, signature: object, path: Path, opset: int = 18) -> None:
        path.write_bytes((exported / path.name).read_bytes())

    monkeypatch.setattr("ntre_deploy.export.bundle.write_onnx", copy)


@pytest.fixture
def bundle_of(
    plans: dict[str, Path],
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    double: Callable[..., Any],
    quick: None,
    limits: Any,
) -> Callable[..., Path]:
    """Makes the bundle of a version of TensorRT, whose double is then installed."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    def make(version: str = "10.16.1.11") -> Path:
        module = double(version)
        if version not in plans:
            out = tmp_path_factory.mktemp("plans") / "tiny.ntre"
            options = ExportOptions(("fp16",), engines=("trt",), tensorrt=limits)
            manifest = export_bundle(tiny_checkpoint, out, options)
            assert {v["engine"] for v in manifest.verification} == {"onnx-cpu", "trt"}
            plans[version] = out
        module.calls.clear()
        module.used.clear()
        return plans[version]

    return make

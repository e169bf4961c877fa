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

_ALIVE = ("memory", "pinned", "streams", "events", "graphs", "contexts")


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

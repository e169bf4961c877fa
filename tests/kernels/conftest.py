"""The kernels behind the real launcher: built for the CPU over the emulator, and on a GPU where there is one."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.kernels.driver import Arguments, CudaDriver, Dim3
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.kernels.sources import SOURCES

EMULATOR = Path(__file__).parent / "emulator"
# beyond every array; a kernel that writes there is found out
_GUARD = 256
_POISON = 0xA5


def compiler() -> str:
    """A C++ compiler; skips where there is none."""
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no C++ compiler: the kernels cannot be run on the CPU")


class EmulatedDriver:
    """Runs the kernels on the CPU, behind the same protocol as the CUDA driver; plays a small device of SM86."""

    capability = (8, 6)
    multiprocessors = 4

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.reversed = False
        self.launched: list[str] = []

    def load(self, code: bytes, name: str) -> Any:
        assert f".entry {name}(".encode() in code, f"{name} is not in the PTX that was chosen for it"
        function = getattr(self._library, f"emulate_{name}")
        function.restype = ctypes.c_bool
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_bool]
        return name, function

    def launch(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        name, call = function
        self.launched.append(name)
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
        sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
        assert call(*sizes, addresses, self.reversed), f"{name}: threads wait for others that never come"


class RecordingDriver(CudaDriver):
    """The CUDA driver; remembers what was launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []

    def load(self, code: bytes, name: str) -> Any:
        return name, super().load(code, name)

    def launch(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        self.launched.append(function[0])
        super().launch(function[1], grid, block, arguments, stream)


class Arrays:
    """Arrays at 16-byte addresses, or `shift` bytes past one, amid poisoned memory; on the GPU if `cuda` is given."""

    def __init__(self, cuda: CudaDriver | None) -> None:
        self._cuda = cuda
        self._held: list[tuple[NDArray[np.uint8], int, int, int]] = []

    def put(self, array: NDArray[Any], shift: int = 0) -> int:
        """Copy an array in; returns its address."""
        data = np.ascontiguousarray(array)
        memory = np.full(data.nbytes + 2 * _GUARD + 32, _POISON, np.uint8)
        start = _GUARD + shift + (0 if self._cuda else -(memory.ctypes.data + _GUARD) % 16)
        memory[start : start + data.nbytes] = data.reshape(-1).view(np.uint8)
        base = self._cuda.upload(memory) if self._cuda else memory.ctypes.data
        self._held.append((memory, base, start, data.nbytes))
        return base + start

    def room(self, shape: Sequence[int], dtype: type, shift: int = 0) -> int:
        """An array of poison to be written."""
        return self.put(np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, _POISON, np.uint8), shift)

    def get(self, address: int, shape: Sequence[int], dtype: type) -> NDArray[Any]:
        """The array at an address, after a look at the poison around all of them; gives the memory back."""
        found = None
        for memory, base, start, size in self._held:
            if self._cuda:
                self._cuda.download(base, memory)
                self._cuda.free(base)
            outside = np.concatenate([memory[:start], memory[start + size :]])
            assert (outside == _POISON).all(), "a kernel wrote outside its arrays"
            if base + start == address:
                found = memory[start : start + size].view(dtype).reshape(shape).copy()
        self._held.clear()
        assert found is not None, "no array lies at this address"
        return found


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDriver:
    """The kernels, built for the CPU once per session."""
    library = tmp_path_factory.mktemp("emulator") / "kernels.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-w"]
    command = [compiler(), *flags, "-shared", "-fPIC", f"-I{EMULATOR}", f"-I{SOURCES}", "-include", "emulator.hpp"]
    source = str(EMULATOR / "emulator.cpp")
    done = subprocess.run([*command, source, "-o", str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return EmulatedDriver(library)


@pytest.fixture(scope="session")
def cuda() -> Iterator[RecordingDriver]:
    """The first CUDA device; skips where there is none."""
    try:
        driver = RecordingDriver()
    except EngineError as error:
        pytest.skip(f"no CUDA device: {error}")
    yield driver
    driver.close()


@pytest.fixture(params=["forward", "backward", pytest.param("gpu", marks=pytest.mark.gpu)])
def driver(request: pytest.FixtureRequest) -> EmulatedDriver | RecordingDriver:
    """The CPU, threads in both orders (a kernel that lacks a barrier fails in one of them), and the GPU."""
    if request.param == "gpu":
        device: RecordingDriver = request.getfixturevalue("cuda")
        device.launched.clear()
        return device
    emulated: EmulatedDriver = request.getfixturevalue("emulated")
    emulated.reversed = request.param == "backward"
    emulated.launched.clear()
    return emulated


@pytest.fixture
def kernels(driver: EmulatedDriver | RecordingDriver) -> Kernels:
    """The launcher."""
    return Kernels(driver, driver.capability, driver.multiprocessors)


@pytest.fixture
def memory(driver: EmulatedDriver | RecordingDriver) -> Callable[[], Arrays]:
    """Makes memory, for one run."""
    return lambda: Arrays(driver if isinstance(driver, RecordingDriver) else None)

"""The kernels on the CPU: their sources, built with a C++ compiler over the emulator, behind the real launcher."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy.kernels.build import SOURCES
from ntre_deploy.kernels.driver import Arguments, Dim3
from ntre_deploy.kernels.launch import Kernels

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
    """Runs the kernels on the CPU, behind the same protocol as the CUDA driver."""

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


class Arrays:
    """Arrays at 16-byte addresses, or `shift` bytes past one, in the middle of poisoned memory."""

    def __init__(self) -> None:
        self._held: list[tuple[NDArray[np.uint8], int, int]] = []

    def put(self, array: NDArray[Any], shift: int = 0) -> int:
        """Copy an array in; returns its address."""
        data = np.ascontiguousarray(array)
        memory = np.full(data.nbytes + 2 * _GUARD + 32, _POISON, np.uint8)
        start = _GUARD + (-(memory.ctypes.data + _GUARD) % 16) + shift
        memory[start : start + data.nbytes] = data.reshape(-1).view(np.uint8)
        self._held.append((memory, start, data.nbytes))
        return memory.ctypes.data + start

    def room(self, shape: Sequence[int], dtype: type, shift: int = 0) -> int:
        """An array of poison to be written."""
        return self.put(np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, _POISON, np.uint8), shift)

    def get(self, address: int, shape: Sequence[int], dtype: type) -> NDArray[Any]:
        """The array at an address, after a look at the poison around all of them."""
        for memory, start, size in self._held:
            outside = np.concatenate([memory[:start], memory[start + size :]])
            assert (outside == _POISON).all(), "a kernel wrote outside its arrays"
        for memory, start, size in self._held:
            if memory.ctypes.data + start == address:
                return memory[start : start + size].view(dtype).reshape(shape).copy()
        raise AssertionError("no array lies at this address")


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


@pytest.fixture(params=["forward", "backward"])
def driver(request: pytest.FixtureRequest, emulated: EmulatedDriver) -> EmulatedDriver:
    """Threads run in both orders: a kernel that lacks a barrier fails in one of them."""
    emulated.reversed = request.param == "backward"
    emulated.launched.clear()
    return emulated


@pytest.fixture
def kernels(driver: EmulatedDriver) -> Kernels:
    """The launcher over the emulated driver, for a device of SM86 with 4 multiprocessors."""
    return Kernels(driver, (8, 6), 4)


@pytest.fixture
def memory() -> type[Arrays]:
    """Makes memory, for one run."""
    return Arrays

"""The kernels behind the real launcher: built for the CPU over the emulator, and on a GPU where there is one."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.cuda import Arguments, Device, Dim3, open_device

# beyond every array; a kernel that writes there is found out
_GUARD = 256
_POISON = 0xA5


class EmulatedDriver:
    """Runs the kernels on the CPU, behind the same protocol as the CUDA driver; plays a small device of SM86."""

    compute_capability = "8.6"

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.reversed = False
        self.launched: list[str] = []

    def load_kernel(self, code: bytes, name: str) -> Any:
        assert f".entry {name}(".encode() in code, f"{name} is not in the PTX that was chosen for it"
        function = getattr(self._library, f"emulate_{name}")
        function.restype = ctypes.c_bool
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_bool]
        return name, function

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        name, call = function
        self.launched.append(name)
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
        sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
        assert call(*sizes, addresses, self.reversed), f"{name}: threads wait for others that never come"


class RecordingDriver:
    """The first GPU; remembers what was launched."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.compute_capability = device.compute_capability
        self._stream = device.make_stream()
        self.launched: list[str] = []

    def load_kernel(self, code: bytes, name: str) -> Any:
        return name, self._device.load_kernel(code, name)

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        assert stream == 0, "the tests leave the stream to this"
        self.launched.append(function[0])
        self._device.launch_kernel(function[1], grid, block, arguments, self._stream)

    def upload(self, array: NDArray[np.uint8]) -> int:
        """A copy on the device of bytes [n]."""
        address, pinned = self._device.allocate(array.nbytes), self._device.allocate_pinned(array.nbytes)
        pinned[...] = array
        self._device.copy_in(address, pinned, self._stream)
        self._device.wait(self._stream)
        self._device.free_pinned(pinned)
        return address

    def download(self, address: int, into: NDArray[np.uint8]) -> None:
        """Copy device memory into bytes [n], after all work that was launched, and free it."""
        pinned = self._device.allocate_pinned(into.nbytes)
        self._device.copy_out(pinned, address, self._stream)
        self._device.wait(self._stream)
        into[...] = pinned
        self._device.free_pinned(pinned)
        self._device.free(address)


class Arrays:
    """Arrays at 16-byte addresses, or `shift` bytes past one, amid poisoned memory; on the GPU if `cuda` is given."""

    def __init__(self, cuda: RecordingDriver | None) -> None:
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
            outside = np.concatenate([memory[:start], memory[start + size :]])
            assert (outside == _POISON).all(), "a kernel wrote outside its arrays"
            if base + start == address:
                found = memory[start : start + size].view(dtype).reshape(shape).copy()
        self._held.clear()
        assert found is not None, "no array lies at this address"
        return found


@pytest.fixture(scope="session")
def emulated(emulator: Path) -> EmulatedDriver:
    """The kernels, built for the CPU."""
    return EmulatedDriver(emulator)


@pytest.fixture(scope="session")
def cuda() -> Iterator[RecordingDriver]:
    """The first CUDA device; skips where there is none."""
    try:
        device = open_device()
    except EngineError as error:
        pytest.skip(f"no CUDA device: {error}")
    with device.active():
        yield RecordingDriver(device)
    device.close()


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
    return Kernels(driver, driver.compute_capability)


@pytest.fixture
def memory(driver: EmulatedDriver | RecordingDriver) -> Callable[[], Arrays]:
    """Makes memory, for one run."""
    return lambda: Arrays(driver if isinstance(driver, RecordingDriver) else None)

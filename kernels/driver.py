"""The CUDA driver behind the launcher: what it must offer, and cuda-python as the one that is here."""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError

Dim3 = tuple[int, int, int]
Arguments = Sequence["ctypes._SimpleCData[Any]"]


class Driver(Protocol):
    """Loads code and launches it; a function is whatever `load` returns."""

    def load(self, code: bytes, name: str) -> Any:
        """The kernel `name` of a PTX text."""

    def launch(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """Launch on a stream (0: the default one); the values are copied before this returns."""


class CudaDriver:
    """cuda-python's driver API on a device's primary context, which it makes current for the calling thread.

    Raises:
        EngineError: cuda-python, the driver or the device is not there, or a call failed.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            from cuda.bindings import driver as cuda
        except ImportError as error:
            raise EngineError("cuda-python is not installed; run: pip install 'ntre_deploy[cuda]'") from error
        self._cuda = cuda
        try:
            self._call(cuda.cuInit, 0)
        except RuntimeError as error:  # what the bindings raise where there is no libcuda
            raise EngineError("libcuda was not found; install NVIDIA's driver, or use an engine of the CPU.") from error
        self._device = self._call(cuda.cuDeviceGet, device)
        self._context = self._call(cuda.cuDevicePrimaryCtxRetain, self._device)
        self._call(cuda.cuCtxSetCurrent, self._context)
        self._modules: dict[bytes, Any] = {}
        attribute = cuda.CUdevice_attribute
        self.name: str = self._call(cuda.cuDeviceGetName, 256, self._device).split(b"\0")[0].decode()
        self.capability: tuple[int, int] = (
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors: int = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)

    def load(self, code: bytes, name: str) -> Any:
        if code not in self._modules:
            self._modules[code] = self._call(self._cuda.cuModuleLoadData, code + b"\0")
        return self._call(self._cuda.cuModuleGetFunction, self._modules[code], name.encode())

    def launch(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
        # the driver copies the values before it returns, so they need not outlive this call
        self._call(self._cuda.cuLaunchKernel, function, *grid, *block, 0, stream, ctypes.addressof(addresses), 0)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes; `free` gives it back."""
        return int(self._call(self._cuda.cuMemAlloc, max(size, 1)))

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call(self._cuda.cuMemFree, pointer)

    def upload(self, array: NDArray[Any]) -> int:
        """A copy of an array on the device."""
        array = np.ascontiguousarray(array)
        pointer = self.allocate(array.nbytes)
        self._call(self._cuda.cuMemcpyHtoD, pointer, array.ctypes.data, array.nbytes)
        return pointer

    def download(self, pointer: int, into: NDArray[Any]) -> None:
        """Copy device memory into a contiguous array, after all work that was launched."""
        self.synchronise()
        self._call(self._cuda.cuMemcpyDtoH, into.ctypes.data, pointer, into.nbytes)

    def synchronise(self) -> None:
        """Wait for all work on the context; a kernel that failed is reported here."""
        self._call(self._cuda.cuCtxSynchronize)

    def close(self) -> None:
        """Unload the code and let go of the context."""
        for module in self._modules.values():
            self._call(self._cuda.cuModuleUnload, module)
        self._modules.clear()
        self._call(self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def _attribute(self, attribute: Any) -> int:
        return int(self._call(self._cuda.cuDeviceGetAttribute, attribute, self._device))

    def _call(self, function: Any, *arguments: Any) -> Any:
        status, *values = function(*arguments)
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise EngineError(f"{function.__name__} failed: {status.name}. `ntre doctor` shows the devices.")
        return values[0] if values else None

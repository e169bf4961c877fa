"""The CUDA driver by pycuda, which is built where a CUDA toolkit with headers is; it has no CUDA graphs."""

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cuda import Arguments, CudaError, Dim3, check_process, explain

Bytes = NDArray[np.uint8]

# pycuda tells errors by the words of the driver; those that differ in what to do
_NAMES = {
    "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    "no CUDA-capable device": "CUDA_ERROR_NO_DEVICE",
    "invalid device ordinal": "CUDA_ERROR_INVALID_DEVICE",
    "illegal memory access": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "unspecified launch failure": "CUDA_ERROR_LAUNCH_FAILED",
    "uncorrectable ECC error": "CUDA_ERROR_ECC_UNCORRECTABLE",
    "launch timed out": "CUDA_ERROR_LAUNCH_TIMEOUT",
    "driver is insufficient": "CUDA_ERROR_INSUFFICIENT_DRIVER",
}
# pycuda takes a kernel's arguments as NumPy's scalars
_SCALARS: dict[type, Callable[[Any], Any]] = {
    ctypes.c_void_p: lambda value: np.uintp(value or 0),
    ctypes.c_int: np.int32,
    ctypes.c_longlong: np.int64,
    ctypes.c_float: np.float32,
}

_CONTEXTS: dict[int, Any] = {}


class PycudaDevice:
    """See `Device`.  pycuda's objects free what they hold when they are dropped, so they are kept by their numbers."""

    backend = "pycuda"
    graphs = False

    def __init__(self, index: int = 0) -> None:
        # never pycuda.autoinit: it makes a context of its own, in which other libraries' arrays do not exist
        try:
            import pycuda.driver as driver
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"pycuda is installed but does not import ({reason}); see `nvidia-smi`.") from error
        self._driver: Any = driver
        self.index, self._process = index, os.getpid()
        with self._checked("cuInit"):
            driver.init()
            device = driver.Device(index)
            self.name = str(device.name())
            self.compute_capability = ".".join(map(str, device.compute_capability()))
            self.multiprocessors = int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT))
            # pycuda leaves a primary context that it gives back on the thread's stack, so one is kept for the process
            if index not in _CONTEXTS:
                _CONTEXTS[index] = device.retain_primary_context()
            self._context: Any = _CONTEXTS[index]
        self._kept: dict[int, Any] = {}
        self._modules: dict[bytes, Any] = {}
        self._number = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Device.active`."""
        if self._context is None:
            raise explain("cuCtxPushCurrent", "CUDA_ERROR_CONTEXT_IS_DESTROYED")
        check_process(self._process)
        with self._checked("cuCtxPushCurrent"):
            self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def memory(self) -> tuple[int, int]:
        """See `Device.memory`."""
        with self._checked("cuMemGetInfo"):
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """See `Device.allocate`."""
        with self._checked("cuMemAlloc"):
            memory = self._driver.mem_alloc(max(size, 1))
        self._kept[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        """See `Device.free`."""
        with self._checked("cuMemFree"):
            self._kept.pop(address).free()

    def allocate_pinned(self, size: int) -> Bytes:
        """See `Device.allocate_pinned`."""
        with self._checked("cuMemHostAlloc"):
            array: Bytes = self._driver.pagelocked_empty(max(size, 1), np.uint8)
        self._kept[array.ctypes.data] = array
        return array[:size]

    def free_pinned(self, array: Bytes) -> None:
        """See `Device.free_pinned`."""
        with self._checked("cuMemFreeHost"):
            self._kept.pop(array.ctypes.data).base.free()

    def make_stream(self) -> int:
        """See `Device.make_stream`."""
        with self._checked("cuStreamCreate"):
            stream = self._driver.Stream(1)
        self._kept[int(stream.handle)] = stream
        return int(stream.handle)

    def free_stream(self, stream: int) -> None:
        """See `Device.free_stream`."""
        self._kept.pop(stream)

    def wait(self, stream: int) -> None:
        """See `Device.wait`."""
        with self._checked("cuStreamSynchronize"):
            if stream in self._kept:
                self._kept[stream].synchronize()
            else:  # another library's, which pycuda cannot name
                self._driver.Context.synchronize()

    def follow(self, stream: int, other: int) -> None:
        """See `Device.follow`; pycuda cannot name another library's stream, so everything is waited for."""
        with self._checked("cuCtxSynchronize"):
            self._driver.Context.synchronize()

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        """See `Device.copy_in`."""
        with self._checked("cuMemcpyHtoDAsync"):
            self._driver.memcpy_htod_async(target, source, self._kept[stream])

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        """See `Device.copy_out`."""
        with self._checked("cuMemcpyDtoHAsync"):
            self._driver.memcpy_dtoh_async(target, source, self._kept[stream])

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Device.copy_within`."""
        with self._checked("cuMemcpyDtoDAsync"):
            self._driver.memcpy_dtod_async(target, source, size, self._kept[stream])

    def make_event(self) -> int:
        """See `Device.make_event`."""
        with self._checked("cuEventCreate"):
            event = self._driver.Event()
        # pycuda does not give an event's handle
        self._number -= 1
        self._kept[self._number] = event
        return self._number

    def free_event(self, event: int) -> None:
        """See `Device.free_event`."""
        self._kept.pop(event)

    def record(self, event: int, stream: int) -> None:
        """See `Device.record`."""
        with self._checked("cuEventRecord"):
            self._kept[event].record(self._kept[stream])

    def elapsed(self, first: int, second: int) -> float:
        """See `Device.elapsed`."""
        with self._checked("cuEventElapsedTime"):
            return float(self._kept[first].time_till(self._kept[second]))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """See `Device.capture`; `graphs` is False."""
        raise CudaError("pycuda has no CUDA graphs; cuda-python has.", "CUDA_ERROR_NOT_SUPPORTED")

    def launch(self, graph: int, stream: int) -> None:
        """See `Device.launch`; `graphs` is False."""
        raise CudaError("pycuda has no CUDA graphs; cuda-python has.", "CUDA_ERROR_NOT_SUPPORTED")

    def free_graph(self, graph: int) -> None:
        """See `Device.free_graph`; there are none."""

    def load_kernel(self, code: bytes, name: str) -> Any:
        """See `Device.load_kernel`."""
        with self._checked("cuModuleLoadData"):
            if code not in self._modules:
                self._modules[code] = self._driver.module_from_buffer(code + b"\0")
            return self._modules[code].get_function(name)

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """See `Device.launch_kernel`."""
        values = [_SCALARS[type(argument)](argument.value) for argument in arguments]
        with self._checked("cuLaunchKernel"):
            function(*values, grid=grid, block=block, stream=self._kept[stream])

    def close(self) -> None:
        """See `Device.close`; the context stays for the process's next device."""
        if self._context is not None and os.getpid() == self._process:
            # a module unloads where its context is current
            self._context.push()
            self._modules.clear()
            self._driver.Context.pop()
        self._context = None

    @contextmanager
    def _checked(self, call: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            text = str(error)
            name = next((name for words, name in _NAMES.items() if re.search(words, text, re.IGNORECASE)), "")
            raise explain(call, name or "CUDA_ERROR", text) from error

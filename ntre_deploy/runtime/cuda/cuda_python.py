"""The CUDA driver by NVIDIA's cuda-python (`cuda.bindings`), which comes as wheels."""

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cuda import Arguments, CudaError, Dim3, check_process, explain

Bytes = NDArray[np.uint8]

# so that the stream does not wait for the default stream of other libraries
_NON_BLOCKING = 1
# only this thread's calls are watched while it captures: another thread may allocate meanwhile
_THREAD_LOCAL = "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"


class CudaPythonDevice:
    """See `Device`."""

    backend = "cuda-python"
    graphs = True

    def __init__(self, index: int = 0) -> None:
        try:
            from cuda.bindings import driver
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise EngineError(f"cuda-python is installed but does not import ({reason}).") from error
        self._driver: Any = driver
        self.index, self._process = index, os.getpid()
        # the library is searched for at the first call, and each version raises another error where it is not there
        try:
            result = driver.cuInit(0)
        except Exception as error:
            raise EngineError("There is no NVIDIA driver here (libcuda does not load); see `nvidia-smi`.") from error
        self._check("cuInit", result)
        self._device = self._call("cuDeviceGet", index)
        self.name = bytes(self._call("cuDeviceGetName", 128, self._device)).split(b"\0")[0].decode()
        kind = driver.CUdevice_attribute
        numbers = (kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        self.compute_capability = ".".join(str(self._call("cuDeviceGetAttribute", n, self._device)) for n in numbers)
        many = kind.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        self.multiprocessors = int(self._call("cuDeviceGetAttribute", many, self._device))
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._pinned: dict[int, int] = {}
        self._modules: dict[bytes, Any] = {}
        self._loading = threading.Lock()

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Device.active`."""
        if self._context is None:
            raise explain("cuCtxPushCurrent", "CUDA_ERROR_CONTEXT_IS_DESTROYED")
        check_process(self._process)
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        """See `Device.memory`."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """See `Device.allocate`."""
        return int(self._call("cuMemAlloc", max(size, 1)))

    def free(self, address: int) -> None:
        """See `Device.free`."""
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> Bytes:
        """See `Device.allocate_pinned`."""
        address = int(self._call("cuMemHostAlloc", max(size, 1), 0))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))[:size]
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: Bytes) -> None:
        """See `Device.free_pinned`."""
        self._call("cuMemFreeHost", self._pinned.pop(array.ctypes.data))

    def make_stream(self) -> int:
        """See `Device.make_stream`."""
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def free_stream(self, stream: int) -> None:
        """See `Device.free_stream`."""
        self._call("cuStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """See `Device.wait`."""
        self._call("cuStreamSynchronize", stream)

    def follow(self, stream: int, other: int) -> None:
        """See `Device.follow`."""
        event = self.make_event()
        try:
            self._call("cuEventRecord", event, other)
            self._call("cuStreamWaitEvent", stream, event, 0)
        finally:
            self.free_event(event)

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        """See `Device.copy_in`."""
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream)

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        """See `Device.copy_out`."""
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        """See `Device.copy_within`."""
        self._call("cuMemcpyDtoDAsync", target, source, size, stream)

    def make_event(self) -> int:
        """See `Device.make_event`."""
        return int(self._call("cuEventCreate", 0))

    def free_event(self, event: int) -> None:
        """See `Device.free_event`."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """See `Device.record`."""
        self._call("cuEventRecord", event, stream)

    def elapsed(self, first: int, second: int) -> float:
        """See `Device.elapsed`."""
        return float(self._call("cuEventElapsedTime", first, second))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """See `Device.capture`."""
        mode = getattr(self._driver.CUstreamCaptureMode, _THREAD_LOCAL)
        with _without_collection():
            self._call("cuStreamBeginCapture", stream, mode)
            try:
                work()
            except BaseException:
                # the stream is of no use until its capture has ended, and the first error is the one to tell
                _, graph = self._driver.cuStreamEndCapture(stream)
                if int(graph or 0):
                    self._driver.cuGraphDestroy(graph)
                raise
            graph = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """See `Device.launch`."""
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        """See `Device.free_graph`."""
        self._call("cuGraphExecDestroy", graph)

    def load_kernel(self, code: bytes, name: str) -> Any:
        """See `Device.load_kernel`."""
        with self._loading:
            if code not in self._modules:
                self._modules[code] = self._call("cuModuleLoadData", code + b"\0")
        return self._call("cuModuleGetFunction", self._modules[code], name.encode())

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """See `Device.launch_kernel`."""
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
        self._call("cuLaunchKernel", function, *grid, *block, 0, stream, ctypes.addressof(addresses), 0)

    def close(self) -> None:
        """See `Device.close`."""
        if self._context is not None:
            with suppress(CudaError), self.active():
                for module in self._modules.values():
                    self._call("cuModuleUnload", module)
            self._modules.clear()
            self._context = None
            if os.getpid() != self._process:  # what a fork has inherited is the parent's to give back
                return
            self._call("cuDevicePrimaryCtxRelease", self._device)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._check(name, getattr(self._driver, name)(*arguments))

    def _check(self, name: str, result: tuple[Any, ...]) -> Any:
        code, *values = result
        if int(code):
            _, text = self._driver.cuGetErrorString(code)
            raise explain(name, str(code.name), (text or b"").decode())
        return values[0] if len(values) == 1 else tuple(values)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep garbage from being collected: what frees device memory breaks a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

"""CUDA behind one small interface, by cuda-python or pycuda: memory, streams, copies, events, graphs and kernels.

Always the device's primary context, which PyTorch, CuPy and ONNX Runtime use too, so that their arrays can be read in
place; nothing is initialised when this is imported.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, one_of

Bytes = NDArray[np.uint8]
# of a kernel: sizes of its grid and of a block, and its arguments
Dim3 = tuple[int, int, int]
Arguments = Sequence[ctypes.c_void_p | ctypes.c_int | ctypes.c_longlong | ctypes.c_float]

BACKENDS = ("cuda-python", "pycuda")
_MODULES = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}
_INSTALL = "pip install 'cuda-bindings<14', or 'ntre_deploy[pycuda]' where a CUDA toolkit is"


class CudaError(EngineError):
    """A call of the CUDA driver failed; `name` is such as `CUDA_ERROR_OUT_OF_MEMORY`."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name

    @property
    def out_of_memory(self) -> bool:
        """Whether the device's memory was too small; everything else still works."""
        return self.name == "CUDA_ERROR_OUT_OF_MEMORY"


class Device(Protocol):
    """One GPU.  Streams, events, graphs and device memory are plain numbers; every call may raise `CudaError`.

    Attributes:
        backend: of `BACKENDS`.
        index: as CUDA numbers the GPUs that this process sees.
        name: such as `NVIDIA H100 80GB HBM3`.
        compute_capability: such as `9.0`.
        multiprocessors: such as 132.
        graphs: whether work can be captured into CUDA graphs.
    """

    backend: str
    index: int
    name: str
    compute_capability: str
    multiprocessors: int
    graphs: bool

    def active(self) -> AbstractContextManager[None]:
        """Make the primary context current in this thread; every other call belongs into such a block."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        ...

    def allocate(self, size: int) -> int:
        """Address of so many bytes of device memory."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def allocate_pinned(self, size: int) -> Bytes:
        """Page-locked host memory, uint8 [size]."""
        ...

    def free_pinned(self, array: Bytes) -> None:
        """Give page-locked memory, uint8 [bytes], back; the array must not be used any more."""
        ...

    def make_stream(self) -> int:
        """A stream that does not wait for the default one."""
        ...

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def wait(self, stream: int) -> None:
        """Block until a stream has done its work; errors of that work appear here."""
        ...

    def follow(self, stream: int, other: int) -> None:
        """Let a stream wait for what somebody else's stream holds now (1 and 2 are CUDA's default streams)."""
        ...

    def copy_in(self, target: int, source: Bytes, stream: int) -> None:
        """Queue a copy of page-locked memory, uint8 [bytes], to the device."""
        ...

    def copy_out(self, target: Bytes, source: int, stream: int) -> None:
        """Queue a copy from the device to page-locked memory, uint8 [bytes]."""
        ...

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy on the device."""
        ...

    def make_event(self) -> int:
        """An event that keeps its time."""
        ...

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Queue an event."""
        ...

    def elapsed(self, first: int, second: int) -> float:
        """Milliseconds of device time between two events that have passed."""
        ...

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A CUDA graph of what `work` queues on the stream, which is not run by that."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""
        ...

    def free_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...

    def load_kernel(self, code: bytes, name: str) -> Any:
        """The kernel `name` of a PTX text, which is compiled at its first use."""
        ...

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """Queue a kernel of `load_kernel`; the values are copied before this returns."""
        ...

    def close(self) -> None:
        """Give the primary context back; what was allocated must be freed before."""
        ...


def let_go(device: Device, addresses: Iterable[int] = (), pinned: Iterable[Bytes] = ()) -> None:
    """Free device memory and page-locked arrays, uint8 [bytes] each; a lost device does not keep it from the rest."""
    for address in addresses:
        with suppress(CudaError):
            device.free(address)
    for array in pinned:
        with suppress(CudaError):
            device.free_pinned(array)


def capability_pair(capability: str) -> tuple[int, int] | None:
    """Major and minor number of a compute capability such as `8.6`; None for another text."""
    major, dot, minor = capability.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def check_process(owner: int) -> None:
    """See that this is the process that opened a device: CUDA does not survive a fork.

    Args:
        owner: its `os.getpid()`.

    Raises:
        CudaError: it is a child of it.
    """
    if os.getpid() != owner:
        raise explain("cuCtxPushCurrent", "CUDA_ERROR_NOT_INITIALIZED")


def unavailable(backend: str | None = None) -> str | None:
    """Why there is no GPU to be used here, or None."""
    try:
        open_device(backend).close()
    except EngineError as error:
        return str(error).rstrip(".")
    return None


def open_device(backend: str | None = None, index: int = 0) -> Device:
    """The first GPU, or the one of that index.

    Args:
        backend: `cuda-python` or `pycuda`; None takes the first that is installed.

    Raises:
        InputError: an unknown backend.
        EngineError: no backend is installed, there is no driver, it is too old, or there is no such GPU.
    """
    names = BACKENDS if backend is None else (one_of(backend, BACKENDS, "CUDA backend"),)
    for name in names:
        if not _installed(_MODULES[name]):
            continue
        if name == "cuda-python":
            from ntre_deploy.runtime.cuda.cuda_python import CudaPythonDevice

            return CudaPythonDevice(index)
        from ntre_deploy.runtime.cuda.pycuda import PycudaDevice

        return PycudaDevice(index)
    raise EngineError(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not installed ({_INSTALL}).")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def explain(call: str, name: str, text: str = "") -> CudaError:
    """What a failed call of the driver means for the user, and what to do.

    Args:
        call: such as `cuMemAlloc`.
        name: such as `CUDA_ERROR_OUT_OF_MEMORY`.
        text: the driver's own words.
    """
    advice = _ADVICE.get(name, f"CUDA's {call} failed ({text or 'no reason given'}); `ntre doctor` tells more")
    return CudaError(f"{advice} [{name}].", name)


_RESTART = "the GPU has to be opened anew: end this process and look into `nvidia-smi` and the kernel's log (Xid)"
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "The GPU's memory is full; free some (`nvidia-smi` lists who uses it) or send smaller "
    "batches and fewer classes",
    "CUDA_ERROR_NO_DEVICE": "There is no NVIDIA GPU for this process; see `nvidia-smi` and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_NOT_INITIALIZED": "This process was forked from one that had used CUDA, and CUDA does not survive "
    "that; start it anew (multiprocessing's 'spawn') and load the bundle there",
    "CUDA_ERROR_INVALID_DEVICE": "There is no GPU of that number; see `nvidia-smi` and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "The NVIDIA driver's library and kernel module differ; restart the machine",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "The NVIDIA driver is too old for this CUDA; install a newer driver",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "The NVIDIA driver is too old for this CUDA; install a newer driver",
    "CUDA_ERROR_UNKNOWN": "The NVIDIA driver fails without a reason; restart the machine, or its nvidia_uvm module",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "The GPU is busy or set to exclusive use by another process; see `nvidia-smi`",
    "CUDA_ERROR_ECC_UNCORRECTABLE": f"The GPU's memory gave a wrong bit; {_RESTART}",
    "CUDA_ERROR_ILLEGAL_ADDRESS": f"A kernel read where nothing is; {_RESTART}",
    "CUDA_ERROR_LAUNCH_FAILED": f"A kernel crashed; {_RESTART}",
    "CUDA_ERROR_LAUNCH_TIMEOUT": f"A kernel ran too long for the system's watchdog; {_RESTART}",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": f"The GPU is lost; {_RESTART}",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": f"The GPU's context was destroyed by somebody else; {_RESTART}",
}

__all__ = [
    "BACKENDS",
    "Arguments",
    "CudaError",
    "Device",
    "Dim3",
    "capability_pair",
    "check_process",
    "explain",
    "let_go",
    "open_device",
    "unavailable",
]

"""Arrays in device memory: read in place from other libraries, and handed to them, without a copy.

Two protocols: `__cuda_array_interface__` (version 3, of Numba) and DLPack (0.8, of the array API standard).
"""

import ctypes
from typing import Any, ClassVar

import numpy as np

from ntre_deploy.errors import InputError

_CUDA = 2  # DLPack's device type
# DLPack's type codes and bits
_CODES = {np.dtype(np.float32): (2, 32), np.dtype(np.float16): (2, 16), np.dtype(np.int32): (0, 32)}
_FLOAT = np.dtype(np.float32)
_NAME, _USED = b"dltensor", b"used_dltensor"


class DeviceArray:
    """A C-contiguous array in device memory.

    Attributes:
        address: of the first element.
        shape: of the array.
        dtype: float32, float16 or int32.
        stream: whose work has to be waited for before it is read; 0 for none.
        owner: what must live as long as the array.
        device: number of the GPU.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        owner: object = None,
        stream: int = 0,
        dtype: "np.dtype[Any]" = _FLOAT,
        device: int = 0,
    ) -> None:
        self.address, self.shape, self.owner, self.stream = address, tuple(shape), owner, stream
        self.device = device
        self.dtype = np.dtype(dtype)

    def __getitem__(self, part: slice) -> "DeviceArray":
        """A range of the first axis, in place."""
        start, stop, step = part.indices(self.shape[0])
        if step != 1:
            raise InputError("An array on the device can be cut along its first axis, but not thinned out.")
        row = self.nbytes // max(self.shape[0], 1)
        shape = (max(stop - start, 0), *self.shape[1:])
        owner = self if self.owner is None else self.owner
        return DeviceArray(self.address + start * row, shape, owner, self.stream, self.dtype, self.device)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For Numba, CuPy, PyTorch and others; the array is ready, so no stream is named."""
        place = (self.address, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": place, "strides": None, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device

    def __dlpack__(self, **options: Any) -> Any:
        """A capsule for `from_dlpack`; the array is ready, so the consumer's stream has nothing to wait for."""
        return _export(self)


def is_device_array(array: object) -> bool:
    """Whether something lies in a GPU's memory, by what it says of itself."""
    if isinstance(array, np.ndarray):
        return False
    if _interface(array) is not None:
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) == _CUDA


def view(array: Any, what: str, stream: int, dtype: "np.dtype[Any]" = _FLOAT, device: int = 0) -> DeviceArray:
    """Another library's array in device memory, in place.

    Args:
        what: names it in messages.
        stream: on which it will be read; DLPack's producers wait for their own work on it.
        dtype: that it has to have.
        device: number of the GPU that reads it; a library's array whose GPU is not told is taken to lie there.

    Raises:
        InputError: it lies on another GPU, is of another type or not C-contiguous, or its library does not hand it out.
    """
    if hasattr(array, "__dlpack_device__"):
        _check_place(what, int(array.__dlpack_device__()[1]), device)
    if isinstance(array, DeviceArray):
        if array.dtype != dtype:
            raise InputError(f"{what} on the device is of type {array.dtype}; {dtype} is expected.")
        return array
    interface = _interface(array)
    # before version 3, PyTorch's to this day, the interface does not say what work has to be waited for; DLPack does
    if interface is None or (interface.get("version", 0) < 3 and hasattr(array, "__dlpack__")):
        return _import(array, what, stream, dtype, device)
    shape = tuple(int(n) for n in interface["shape"])
    if interface["typestr"] != dtype.str:
        raise InputError(f"{what} on the device is of type {interface['typestr']}; {dtype} is expected.")
    strides = interface.get("strides")
    _check_strides(what, shape, None if strides is None else tuple(s // dtype.itemsize for s in strides))
    return DeviceArray(int(interface["data"][0]), shape, array, int(interface.get("stream") or 0), dtype, device)


def _interface(array: object) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
    except Exception:
        # PyTorch raises for a tensor that requires a gradient; DLPack then tells why
        return None
    return found


def _check_place(what: str, there: int, device: int) -> None:
    if there != device:
        raise InputError(
            f"{what} lies on GPU {there} and the engine runs on GPU {device}; move it, or load with device={there}."
        )


def _check_strides(what: str, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    expected, found = 1, []
    for side in reversed(shape):
        found.append(expected)
        expected *= side
    # a stride along one element says nothing
    if strides is not None and any(
        a != b for a, b, side in zip(strides, reversed(found), shape, strict=True) if side > 1
    ):
        raise InputError(f"{what} on the device has gaps or another order; make it C-contiguous first.")


class _Tensor(ctypes.Structure):
    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

# a capsule's destructor runs while an exception may be set, so it takes the bare pointer and calls as little as it can
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_raw_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
# what exported capsules refer to, until their consumers are done
_exported: dict[int, tuple[Any, ...]] = {}


def _forget(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _unused(capsule: int) -> None:
    # nobody took it, or its name would be another
    if _raw_valid(capsule, _NAME):
        _exported.pop(_raw_pointer(capsule, _NAME) or 0, None)


_deleter, _destructor = _Deleter(_forget), _Destructor(_unused)


def _export(array: DeviceArray) -> Any:
    shape = (ctypes.c_int64 * len(array.shape))(*array.shape)
    tensor = _Tensor(array.address, _CUDA, array.device, len(array.shape), *_CODES[array.dtype], 1, shape, None, 0)
    managed = _Managed(tensor, None, _deleter)
    _exported[ctypes.addressof(managed)] = (managed, shape, array)
    return _new(ctypes.addressof(managed), _NAME, _destructor)


class _Taken:
    """A capsule that was taken; its producer is told when the last array on it is gone."""

    def __init__(self, capsule: Any) -> None:
        self.managed = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed))
        _rename(capsule, _USED)

    def __del__(self) -> None:
        if deleter := self.managed.contents.deleter:
            deleter(self.managed)


def _import(array: Any, what: str, stream: int, dtype: "np.dtype[Any]", device: int) -> DeviceArray:
    try:
        taken = _Taken(array.__dlpack__(stream=stream))
    except Exception as error:
        raise InputError(f"{what} on the device cannot be read: {' '.join(str(error).split())[:200]}") from error
    tensor = taken.managed.contents.tensor
    _check_place(what, tensor.device_id, device)
    if (tensor.code, tensor.bits, tensor.lanes) != (*_CODES[dtype], 1):
        raise InputError(f"{what} on the device is of another type than {dtype}.")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    _check_strides(what, shape, tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None)
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, taken, dtype=dtype, device=device)

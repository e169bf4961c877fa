"""Launches the kernels on a stream, given device pointers: checks sizes, chooses the variant, the grid and the code.

All pointers are device addresses as integers; arrays are contiguous unless a pitch or a stride is given.  Launches are
asynchronous, so the arrays must live until the stream has come by.  The first launch of a kernel compiles its PTX.
"""

import ctypes
from typing import Any, Protocol

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.kernels.sources import OLDEST, ptx_for
from ntre_deploy.runtime.cuda import Arguments, Dim3, capability_pair

# 32-bit products of positions and sizes stay below 2^31 up to here
MAX_INPUT = 16_383
MAX_SIDE = 32_767
MAX_CLASSES = 255

# as in the sources
_WARP = 32
_PREPARE_ROWS = 8
_LINEAR_RATIO = 10
_LABEL_COLUMNS, _LABEL_ROWS = 128, 16


class Driver(Protocol):
    """Loads code and launches it; `runtime.cuda.Device` is one."""

    def load_kernel(self, code: bytes, name: str) -> Any:
        """The kernel `name` of a PTX text."""

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """Launch what `load_kernel` gave on a stream; the values are copied before this returns."""


class Box(Protocol):
    """Where an image lies in the square input; `runtime.letterbox.Letterbox` is one."""

    @property
    def size(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def inner_height(self) -> int: ...
    @property
    def inner_width(self) -> int: ...
    @property
    def averages(self) -> bool: ...


class Colours(Protocol):
    """The network's normalisation; `runtime.inputspec.InputSpec` is one."""

    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...


class Kernels:
    """The kernels for one device.

    Args:
        driver: loads and launches; its context is current whenever a method is called.
        capability: of the device, `8.6` for SM86.

    Raises:
        EngineError: the device is older than SM75.
    """

    def __init__(self, driver: Driver, capability: str) -> None:
        self._driver = driver
        major, minor = capability_pair(capability) or (0, 0)
        self._capability = 10 * major + minor
        self._functions: dict[str, Any] = {}
        if self._capability < OLDEST:
            raise EngineError(
                f"The kernels need compute capability 7.5 or later; this device has {capability}."
                " Use another engine of the bundle."
            )

    def prepare(
        self, image: int, pitch: int, box: Box, colours: Colours, out: int, *, half: bool, stream: int = 0
    ) -> None:
        """uint8 RGB image [height, width, 3] -> letterboxed, normalised [3, size, size], fp16 or fp32.

        Args:
            pitch: bytes from one row of the image to the next, 3 * width or more.

        Raises:
            InputError: a size that the kernel cannot take.
        """
        _check_box(box)
        if pitch < 3 * box.width:
            raise InputError(f"A pitch of {pitch} bytes was given for rows of {3 * box.width}; it cannot be less.")
        if box.averages and (box.inner_height > box.height or box.inner_width > box.width):
            raise InputError("A box that averages pixels must shrink the image along both axes.")
        if not box.averages and box.width > _LINEAR_RATIO * box.inner_width:
            raise InputError(f"Interpolation shrinks a row at most {_LINEAR_RATIO} times; use a box that averages.")
        name = f"prepare_{'area' if box.averages else 'linear'}_{_suffix(half)}"
        grid = (_blocks(box.size, _WARP), _blocks(box.size, _PREPARE_ROWS), 1)
        self._launch("prepare", name, grid, (_WARP, _PREPARE_ROWS, 1), stream, [
            _pointer(image), ctypes.c_longlong(pitch),
            *_ints(box.height, box.width, box.inner_height, box.inner_width, box.size),
            *map(ctypes.c_float, colours.mean), *(ctypes.c_float(1 / std) for std in colours.std), _pointer(out),
        ])  # fmt: skip

    def label_map(
        self, logits: int, shape: tuple[int, int, int], box: Box, out: int, *, half: bool, stream: int = 0
    ) -> None:
        """Logits [N, 2, h, w] -> uint8 labels [height, width] at the image's own size.

        Args:
            shape: (N, h, w).
            half: whether the logits are fp16 or fp32.

        Raises:
            InputError: a size that the kernel cannot take.
        """
        classes, h, w = shape
        _check_box(box)
        if not 1 <= classes <= MAX_CLASSES:
            raise InputError(f"{classes} classes were given; a label map holds 1 to {MAX_CLASSES}.")
        if not (1 <= h <= box.size and 1 <= w <= box.size):
            raise InputError(f"Logits of {w} x {h} were given; a side is 1 to {box.size}, the input's.")
        name = f"label_{'one' if classes == 1 else 'many'}_{_suffix(half)}"
        grid = (_blocks(box.width, _LABEL_COLUMNS), _blocks(box.height, _LABEL_ROWS), 1)
        self._launch("labels", name, grid, (_LABEL_COLUMNS, 1, 1), stream, [
            _pointer(logits),
            *_ints(classes, h, w, box.size, box.height, box.width, box.inner_height, box.inner_width),
            _pointer(out),
        ])  # fmt: skip

    def _launch(
        self,
        source: str,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: int,
        arguments: Arguments,
    ) -> None:
        if name not in self._functions:
            self._functions[name] = self._driver.load_kernel(ptx_for(source, self._capability), name)
        self._driver.launch_kernel(self._functions[name], grid, block, arguments, stream)


def _blocks(total: int, each: int) -> int:
    return -(-total // each)


def _suffix(half: bool) -> str:
    return "f16" if half else "f32"


def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)


def _ints(*values: int) -> list[ctypes.c_int]:
    return [ctypes.c_int(value) for value in values]


def _check_box(box: Box) -> None:
    sides = (box.height, box.width)
    inner = (box.inner_height, box.inner_width)
    if not 1 <= box.size <= MAX_INPUT:
        raise InputError(f"An input of {box.size} pixels was given; the kernels take 1 to {MAX_INPUT}.")
    if min(sides) < 1 or max(sides) > MAX_SIDE:
        raise InputError(f"An image of {box.width} x {box.height} pixels was given; a side is 1 to {MAX_SIDE}.")
    if min(inner) < 1 or max(inner) > box.size:
        raise InputError(f"{box.inner_width} x {box.inner_height} pixels do not fit an input of {box.size}.")

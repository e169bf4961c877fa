"""Launches the kernels on a stream, given device pointers: checks sizes, chooses the variant, the grid and the code.

All pointers are device addresses as integers; arrays are contiguous unless a pitch or a stride is given.  Launches are
asynchronous, so the arrays must live until the stream has come by.  The first launch of a kernel compiles its PTX.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.kernels.sources import OLDEST, ptx_for
from ntre_deploy.runtime.cuda import Arguments, Dim3

# 32-bit products of positions and sizes stay below 2^31 up to here
MAX_INPUT = 16_383
MAX_SIDE = 32_767
MAX_CLASSES = 255
_MAX_GRID = 65_535

# as in the sources
_WARP = 32
_PREPARE_ROWS = 8
_LINEAR_RATIO = 10
_LABEL_COLUMNS, _LABEL_ROWS = 128, 16
_POOL_CHANNELS, _POOL_CLASSES, _POOL_THREADS = 4, 4, 256
_NORMALISE_PARTS = 16
_TILE, _BEST_THREADS = 128, 256
_FINISH_THREADS = 512


class Driver(Protocol):
    """Loads code and launches it; `runtime.cuda.Device` is one."""

    def load_kernel(self, code: bytes, name: str) -> Any:
        """The kernel `name` of a PTX text."""

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        """Launch what `load_kernel` gave on a stream; the values are copied before this returns."""


class Box(Protocol):
    """Where an image lies in the square input; `runtime.image.Letterbox` is one."""

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
    """The network's normalisation; `runtime.image.InputSpec` is one."""

    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...


@dataclass(frozen=True)
class PriorShape:
    """Sizes of the prior: features [images, channels, pixels], keys [classes, shots, channels, stride].

    The first `keys` columns of each shot count; `stride` is a multiple of 8.
    """

    images: int
    classes: int
    shots: int
    channels: int
    pixels: int
    keys: int
    stride: int

    @property
    def padded(self) -> int:
        """Pixels rounded up to whole tiles."""
        return -(-self.pixels // _TILE) * _TILE


class Kernels:
    """The kernels for one device.

    Args:
        driver: loads and launches; its context is current whenever a method is called.
        capability: of the device, `8.6` for SM86.
        multiprocessors: of the device; the prior spreads its work over them.

    Raises:
        EngineError: the device is older than SM75.
    """

    def __init__(self, driver: Driver, capability: str, multiprocessors: int) -> None:
        self._driver = driver
        major, _, minor = capability.partition(".")
        self._capability = 10 * int(major) + int(minor)
        self._multiprocessors = multiprocessors
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

    def prior_workspace(self, shape: PriorShape) -> int:
        """Bytes of device memory that `prior` needs beside its arrays.

        Raises:
            InputError: a size that the kernel cannot take.
        """
        rows, best = self._prior_parts(shape)
        return rows + best

    def prior(
        self, feature: int, keys: int, shape: PriorShape, workspace: int, out: int, *, half: bool, stream: int = 0
    ) -> None:
        """The prior of eq. 5: features [B, D, P] and keys [N, K, D, M] -> fp32 [B, N, P] in [0, 1].

        Args:
            feature: fp16 or fp32 layer-4 features of the queries.
            keys: fp16 columns of norm 1 or 0, or -1 all over in padding shots; 16-byte aligned.
            workspace: 16-byte aligned, of `prior_workspace` bytes.

        Raises:
            InputError: a size or an alignment that the kernel cannot take.
        """
        for pointer, what in ((keys, "keys"), (workspace, "workspace")):
            if pointer % 16:
                raise InputError(f"The prior's {what} lie at an address that is no multiple of 16; move them.")
        best = workspace + self._prior_parts(shape)[0]
        splits, padded = self._splits(shape), shape.padded
        sizes = (shape.channels, shape.pixels, padded)
        self._launch(
            "prior", f"prior_normalise_{_suffix(half)}", (padded // _WARP, shape.images, 1),
            (_WARP, _NORMALISE_PARTS, 1), stream, [_pointer(feature), *_ints(*sizes), _pointer(workspace)],
        )  # fmt: skip
        self._launch(
            "prior", "prior_best", (padded // _TILE, shape.classes * shape.shots, shape.images * splits),
            (_BEST_THREADS, 1, 1), stream,
            [_pointer(workspace), _pointer(keys), *_ints(*sizes, shape.keys, shape.stride, splits), _pointer(best)],
        )  # fmt: skip
        self._launch(
            "prior", "prior_finish", (shape.classes, shape.images, 1), (_FINISH_THREADS, 1, 1), stream,
            [_pointer(best), *_ints(splits, shape.shots, shape.pixels), _pointer(out)],
        )  # fmt: skip

    def do_prototype(
        self,
        feature: int,
        background: int,
        initial: int,
        shape: tuple[int, int, int, int],
        area_epsilon: float | None,
        out: int,
        *,
        half: bool,
        stream: int = 0,
    ) -> None:
        """DO mask (eq. 7) and its pooling (eq. 8) -> fp32 [B, N, C].

        Args:
            feature: fp16 or fp32 [B, C, P].
            background: fp32 margins "class 1 - class 0" of the BG classifier, [B, P].
            initial: fp32 margins of the initial prediction, [B, N, P].
            shape: (B, N, C, P).
            area_epsilon: masked mean with this in the area (paper); None takes the mean over all pixels (released).

        Raises:
            InputError: a size that the kernel cannot take.
        """
        images, classes, channels, pixels = shape
        if min(shape) < 1 or max(images, _blocks(classes, _POOL_CLASSES)) > _MAX_GRID:
            raise InputError(f"Pooling of (images, classes, channels, pixels) = {shape}: each is 1 or more.")
        # vectors of four need every row to begin at a multiple of four elements
        aligned = pixels % 4 == 0 and feature % (8 if half else 16) == 0 and (background | initial) % 16 == 0
        name = f"do_pool{'4' if aligned else ''}_{_suffix(half)}"
        grid = (_blocks(channels, _POOL_CHANNELS), _blocks(classes, _POOL_CLASSES), images)
        self._launch("pooling", name, grid, (_POOL_THREADS, 1, 1), stream, [
            _pointer(feature), _pointer(background), _pointer(initial),
            *_ints(channels, classes, pixels, area_epsilon is not None),
            ctypes.c_float(area_epsilon or 0), _pointer(out),
        ])  # fmt: skip

    def _splits(self, shape: PriorShape) -> int:
        # two blocks fit on a multiprocessor; more splits than that only add partial results
        blocks = shape.padded // _TILE * shape.classes * shape.shots * shape.images
        wanted = max(1, 2 * self._multiprocessors // blocks)
        return min(wanted, _blocks(shape.keys, _TILE))

    def _prior_parts(self, shape: PriorShape) -> tuple[int, int]:
        sizes = (shape.images, shape.classes, shape.shots, shape.channels, shape.pixels, shape.keys)
        if min(sizes) < 1 or shape.keys > shape.stride or shape.stride % 8:
            raise InputError(f"{shape}: sizes are 1 or more, and the stride is a multiple of 8 that holds the keys.")
        splits = self._splits(shape)
        if shape.classes * shape.shots > _MAX_GRID or shape.images * splits > _MAX_GRID:
            raise InputError(f"{shape}: at most {_MAX_GRID} shots in all, and as many images.")
        rows = 2 * shape.images * shape.channels * shape.padded
        return rows, 4 * splits * shape.images * shape.classes * shape.shots * shape.pixels

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

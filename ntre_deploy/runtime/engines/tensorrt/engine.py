"""The two plans of a bundle behind the runtime's `Engine` interface."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.cuda import CudaError, Device
from ntre_deploy.runtime.cuda.arrays import DeviceArray, is_device_array, view
from ntre_deploy.runtime.engines.tensorrt.api import Library
from ntre_deploy.runtime.engines.tensorrt.lane import Kept, Lane
from ntre_deploy.runtime.engines.tensorrt.layers import UNQUANTISED
from ntre_deploy.runtime.engines.tensorrt.plan import Plan
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.stacked import StackedSupports, lots

if TYPE_CHECKING:
    from ntre_deploy.runtime.cuda.images import Images

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class _Shared:
    """What clones have in common: plans go with the last clone, the device with the last array on it."""

    def __init__(self, device: Device, plans: dict[str, Plan], save: Path | None) -> None:
        self.device, self.plans = device, plans
        self._save = save
        self._clones = self._arrays = 0
        # arrays are dropped by the garbage collector, which may run inside a call of this
        self._lock = threading.RLock()

    def enter(self) -> None:
        with self._lock:
            self._clones += 1

    def leave(self) -> None:
        with self._lock:
            self._clones -= 1
            if self._clones == 0:
                with suppress(CudaError), self.device.active():
                    self.plans.clear()
            self._settle()

    def upload(self, array: NDArray[Any], dtype: "np.dtype[Any]", lane: Lane) -> DeviceArray:
        """A copy on the device, which is freed with its last reference, even if that outlives the engine."""
        content = np.ascontiguousarray(array, dtype)
        memory = _Memory(self, content.nbytes)
        lane.fill(memory.address, content)
        return DeviceArray(memory.address, content.shape, memory, dtype=dtype, device=self.device.index)

    def allocate(self, size: int) -> int:
        with self._lock:
            address = self.device.allocate(size)
            self._arrays += 1
        return address

    def free(self, address: int) -> None:
        with self._lock:
            self._arrays -= 1
            with suppress(CudaError), self.device.active():
                self.device.free(address)
            self._settle()

    def _settle(self) -> None:
        if self._clones == 0 and self._arrays == 0:
            with suppress(CudaError):
                self.device.close()

    def keep_caches(self) -> None:
        """Write what was compiled since the last time; a cache that cannot be written only costs time."""
        if self._save is None:
            return
        for role, plan in self.plans.items():
            if content := plan.serialise_cache():
                with suppress(InputError), atomic_file(self._save / f"{role}.cache") as path:
                    path.write_bytes(content)


class _Memory(Kept):
    """Device memory that is freed when it is dropped."""

    def __init__(self, shared: _Shared, size: int) -> None:
        self._shared = shared
        self.address = shared.allocate(size)

    def __del__(self) -> None:
        # the driver may be gone before the last array, when Python ends; without an address there was no memory
        with suppress(Exception):
            self._shared.free(self.address)


@dataclass
class _AtOnce:
    """How many images and classes go through a plan at once."""

    images: int
    classes: int

    def shrink(self) -> bool:
        """Ask for less memory from now on; False where less cannot be asked for."""
        if self.images > 1:
            self.images //= 2
        elif self.classes > 1:
            self.classes //= 2
        else:
            return False
        return True


class TensorRtEngine:
    """Two plans on one GPU; belongs to one thread, `clone()` is for others and shares the plans.

    Inputs are arrays of the host, or arrays in the GPU's memory (`__cuda_array_interface__`, DLPack), which are copied
    within it.  Where the GPU's memory is too small, fewer images or classes go through at once; after it was too small
    for one, the engine is unloaded and the process goes on.

    Args:
        contents: plan files by role, `support` and `query`, whose hashes were checked.
        details: of the files, from the manifest.
        cache: the user's own folder for what TensorRT for RTX compiles when shapes first occur.
        device_images: see `EngineOptions`.

    Raises:
        EngineError: a plan cannot be loaded, or runs in another precision than it should; the GPU is too old for
            `device_images`.
    """

    def __init__(
        self,
        library: Library,
        device: Device,
        precision: str,
        contents: dict[str, bytes],
        *,
        trusted_host_code: bool = False,
        cache: Path | None = None,
        device_images: bool = False,
    ) -> None:
        self.name, self.precision = library.engine, precision
        self._title, self._device_images = library.title, device_images
        folder = None if cache is None else _cache_folder(cache, library, contents)
        plans: dict[str, Plan] = {}
        try:
            with device.active():
                for role, content in contents.items():
                    kept = b"" if folder is None else _read(folder / f"{role}.cache")
                    plans[role] = Plan(library, role, content, trusted_host_code=trusted_host_code, runtime_cache=kept)
                    found = plans[role].precision()
                    # of the two graphs of a quantised bundle, one may have been left as it was
                    if found not in (precision, "unknown", UNQUANTISED.get(precision)):
                        raise EngineError(
                            f"The {role} engine should run in {precision} and its convolutions run in {found}; "
                            "export it again."
                        )
        except EngineError:
            with suppress(CudaError):
                with device.active():
                    plans.clear()
                device.close()
            raise
        self._shared: _Shared | None = _Shared(device, plans, folder)
        self._start()

    def _start(self) -> None:
        assert self._shared is not None
        self._shared.enter()
        self._lane: Lane | None = None
        self._images: Images | None = None
        plans = self._shared.plans
        self._at_once = {
            "support": _AtOnce(plans["support"].largest("image", 0), 1),
            "query": _AtOnce(plans["query"].largest("image", 0), plans["query"].largest("prototypes", 0)),
        }
        with self._shared.device.active():
            self._lane = Lane(self._shared.device)
            if self._device_images:
                # the kernels are a part of the package only where it is installed
                from ntre_deploy.runtime.cuda import images

                self._images = images.Images(self._shared.device, self._lane.stream)

    @property
    def graph_note(self) -> str:
        """Why work is queued launch by launch and not as CUDA graphs; empty where graphs run."""
        return "" if self._lane is None else self._lane.without_graph

    def watch_transfers(self) -> None:
        """Let `transfer_ms` tell of every query from now on; off unless asked for, as it takes events on the stream."""
        with self._at_work() as (_, lane):
            lane.watch()

    @property
    def transfer_ms(self) -> tuple[float, float] | None:
        """Milliseconds that the last `query` spent on the way to the device and back; None if not watched."""
        if self._lane is None or self._lane.transfers is None:
            return None
        there, back = self._lane.transfers
        return there, back

    def support(self, image: Any, mask: Any) -> tuple[Float, Float]:
        """See `Engine.support`."""
        with self._at_work() as (shared, lane):
            plan = shared.plans["support"]

            def work(most: _AtOnce) -> list[list[Float]]:
                inputs = _inputs(lane, plan, image=image, mask=mask)
                return [
                    lane.run(plan, {name: _part(array, start, most.images) for name, array in inputs.items()})
                    for start in range(0, image.shape[0], most.images)
                ]

            parts = self._in_lots(lane, "support", work)
        prototypes, keys = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return prototypes, keys

    def query(self, image: Any, supports: StackedSupports) -> Float:
        """See `Engine.query`; more images, classes or keys than the plan takes at once go one lot after the other."""
        with self._at_work() as (shared, lane):
            plan = shared.plans["query"]

            def work(most: _AtOnce) -> list[list[Float]]:
                if lane.transfers is not None:
                    lane.watch()
                images = _inputs(lane, plan, image=image)["image"]
                whole = StackedSupports(**_inputs(lane, plan, **supports._asdict()))
                parts = [lot._asdict() for lot in lots(whole, most.classes, plan.largest("keys", 0))]
                return [
                    [lane.run(plan, {"image": _part(images, start, most.images), **part})[0] for part in parts]
                    for start in range(0, image.shape[0], most.images)
                ]

            rows = self._in_lots(lane, "query", work)
        return np.concatenate([np.concatenate(row, axis=1) for row in rows])

    def query_on_device(self, image: Any, supports: StackedSupports) -> DeviceArray:
        """As `query`, with the logits left on the device: read them before the next call.

        Raises:
            EngineError: it failed, or there is more than the plan takes at once.
        """
        with self._at_work() as (shared, lane):
            plan = shared.plans["query"]
            inputs = _inputs(lane, plan, image=image, **supports._asdict())
            (logits,) = lane.run_on_device(plan, inputs)
        return logits

    def label(self, image: Pixels, spec: InputSpec, supports: StackedSupports) -> tuple[Pixels, Float] | None:
        """See `label_on_device`: uint8 RGB [H, W, 3] to labels [H, W] and logits [N, 2, h, w].

        None where `device_images` is off, or for more than the plan or the GPU's memory takes at once.

        Raises:
            EngineError: it failed.
        """
        images = self._images
        if images is None:
            return None
        with self._at_work() as (shared, lane):
            plan = shared.plans["query"]
            parts = list(lots(supports, self._at_once["query"].classes, plan.largest("keys", 0)))
            if len(parts) > 1:
                return None
            try:
                pixels, box = images.prepare(image, spec)
                inputs = _inputs(lane, plan, image=pixels, **parts[0]._asdict())
                (logits,) = lane.run_on_device(plan, inputs, wait=False)
                return images.label_map(logits, box)
            except CudaError as error:
                if not error.out_of_memory:
                    raise
                lane.release()
                return None

    def keep(self, supports: StackedSupports) -> StackedSupports:
        """Prototypes and keys moved to the device, once for all queries that use them."""
        with self._at_work() as (shared, lane):
            types = shared.plans["query"].dtypes
            prototypes, keys = (
                shared.upload(array, types[name], lane)
                for name, array in (("prototypes", supports.prototypes), ("keys", supports.keys))
            )
        return StackedSupports(prototypes, keys, supports.chunks)

    def _in_lots(self, lane: Lane, role: str, work: Callable[[_AtOnce], list[list[Float]]]) -> list[list[Float]]:
        """What `work` gives, with fewer images or classes at once where the GPU's memory was too small."""
        most = self._at_once[role]
        while True:
            try:
                return work(most)
            except CudaError as error:
                if not error.out_of_memory or not most.shrink():
                    raise
                lane.release()

    def clone(self) -> "TensorRtEngine":
        """Shares the plans; has a stream, contexts and buffers of its own.

        Raises:
            EngineError: this engine is closed.
        """
        if self._shared is None:
            raise self._closed()
        twin = object.__new__(TensorRtEngine)
        twin.name, twin.precision, twin._title, twin._shared = self.name, self.precision, self._title, self._shared
        twin._device_images = self._device_images
        twin._start()
        return twin

    def close(self) -> None:
        """Free what this engine holds on the device; it cannot be used any more."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        with suppress(CudaError), shared.device.active():
            if self._images is not None:
                self._images.close()
            if self._lane is not None:
                self._lane.close()
            self._images = self._lane = None
            shared.keep_caches()
        shared.leave()

    def __del__(self) -> None:
        # the driver may be gone before the last engine, when Python ends
        with suppress(Exception):
            self.close()

    @contextmanager
    def _at_work(self) -> Iterator[tuple[_Shared, Lane]]:
        shared, lane = self._shared, self._lane
        if shared is None or lane is None:
            raise self._closed()
        try:
            with shared.device.active():
                yield shared, lane
        except CudaError as error:
            if error.out_of_memory:
                self.close()
                raise CudaError(f"{error} The engine was unloaded; load it again.", error.name) from error
            raise

    def _closed(self) -> EngineError:
        return EngineError(f"This {self._title} engine was unloaded; load the bundle again.")


def _inputs(lane: Lane, plan: Plan, **arrays: Any) -> dict[str, "NDArray[Any] | DeviceArray"]:
    # as wholes: another library's array need not know slices
    return {
        name: view(array, name, lane.stream, plan.dtypes[name], lane.device.index)
        if is_device_array(array)
        else np.asarray(array, plan.dtypes[name])
        for name, array in arrays.items()
    }


def _part(array: Any, start: int, step: int) -> Any:
    # most calls need no slice, and what is not sliced needs no other object
    return array if array.shape[0] <= step else array[start : start + step]


def _cache_folder(cache: Path, library: Library, contents: dict[str, bytes]) -> Path:
    digest = hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents.values())).hexdigest()[:16]
    return cache / f"{library.engine}-{library.version}" / digest


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

"""Executing plans on one stream: buffers that grow, an execution context for each shape, CUDA graphs."""

import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cuda import Bytes, CudaError, Device, let_go
from ntre_deploy.runtime.cuda.arrays import DeviceArray
from ntre_deploy.runtime.engines.tensorrt.plan import Plan, Shape

Float = NDArray[np.float32]
Inputs = Mapping[str, "NDArray[Any] | DeviceArray"]

# sets of shapes that are kept ready; each has a context and a graph
_KEPT = 8
# around the ways to the device and back
_EVENTS = 4
# role and name of an input or output; the scratch memory of all contexts has no name
_Name = tuple[str, str]
_SCRATCH = ("", "")


@dataclass
class _Ready:
    """Everything for one set of shapes."""

    context: Any
    outputs: dict[str, Shape]
    graph: int | None = None
    runs: int = 0


class Kept:
    """What lies behind an array that no one writes to any more: a lane copies it once and then knows it again."""


class Lane:
    """A stream and what runs on it; belongs to one thread at a time.

    Whatever lies on the device is copied there into buffers of the lane's own, so that contexts and graphs depend on
    shapes alone and not on addresses.  A graph is the plan alone: copies lie around it, where they can be timed.
    The buffers, and the scratch memory that all contexts use in turn, are as large as what has run needed; when one has
    to grow, contexts and graphs are made anew.

    The primary context has to be current in every call.

    Args:
        graphs: capture each set of shapes into a CUDA graph at its second run; the first compiles and allocates.
    """

    def __init__(self, device: Device, *, graphs: bool = True) -> None:
        self.device = device
        self.graphs = graphs and device.graphs
        # why shapes run without a graph, where one was tried
        self.without_graph = ""
        self._ready: OrderedDict[tuple[object, ...], _Ready] = OrderedDict()
        self._memory: dict[_Name, tuple[int, int]] = {}  # address and size
        self._pinned: dict[_Name, Bytes] = {}
        # what was copied last into a buffer, where it stays as it was, and where it lay with how many bytes
        self._filled: dict[_Name, tuple[weakref.ref[Kept], int, int]] = {}
        self.stream = device.make_stream()
        # milliseconds to the device and back of all runs since `watch`, and the events that tell
        self.transfers = [0.0, 0.0]
        self._events: list[int] = []

    def watch(self) -> None:
        """From now on, add the milliseconds of every `run` to `transfers`, which begin at 0 again."""
        self.transfers = [0.0, 0.0]
        while len(self._events) < _EVENTS:
            self._events.append(self.device.make_event())

    def run(self, plan: Plan, inputs: Inputs) -> list[Float]:
        """Execute a plan and wait for it.

        Args:
            inputs: arrays of the host or on the device, in the types of `Plan.dtypes`.

        Returns:
            arrays of the host, in the plan's order, shaped as `Engine.support` or `Engine.query` give them.

        Raises:
            EngineError: it failed.
        """
        ready = self._run(plan, inputs, to_host=True)
        begun = time.perf_counter()
        outputs = [self._staging(plan, n, shape).copy() for n, shape in ready.outputs.items()]
        if self._events:
            first, arrived, computed, last = self._events
            self.transfers[0] += self.device.elapsed(first, arrived)
            self.transfers[1] += self.device.elapsed(computed, last) + 1e3 * (time.perf_counter() - begun)
        return outputs

    def run_on_device(self, plan: Plan, inputs: Inputs, *, wait: bool = True) -> list[DeviceArray]:
        """As `run`, with arrays on the device, which the next run overwrites.

        Args:
            wait: without it, the work is only queued; `stream` must be waited for before the next run.

        Raises:
            EngineError: it failed.
        """
        ready = self._run(plan, inputs, to_host=False, wait=wait)
        return [
            DeviceArray(self._memory[plan.role, n][0], shape, dtype=plan.dtypes[n], device=self.device.index)
            for n, shape in ready.outputs.items()
        ]

    def _run(self, plan: Plan, inputs: Inputs, *, to_host: bool, wait: bool = True) -> _Ready:
        given = {name: inputs[name] for name in plan.inputs}
        shapes = {name: tuple(array.shape) for name, array in given.items()}
        from_host = [name for name, array in given.items() if not isinstance(array, DeviceArray)]
        ready = self._get(plan, shapes, from_host, to_host)
        begun = time.perf_counter()
        try:
            for name, array in given.items():
                if isinstance(array, DeviceArray):
                    self._take(plan.role, name, array)
                else:
                    self._filled.pop((plan.role, name), None)
                    self._staging(plan, name, shapes[name])[...] = array
            if self._events and to_host:
                self.transfers[0] += 1e3 * (time.perf_counter() - begun)
            self._execute(plan, ready, {name: shapes[name] for name in from_host}, ready.outputs if to_host else {})
            if wait:
                self.device.wait(self.stream)
        except EngineError:
            # its context may be in any state
            self._drop_all()
            raise
        ready.runs += 1
        return ready

    def fill(self, address: int, content: NDArray[Any]) -> None:
        """Copy a C-contiguous array [...] to device memory, and wait for it."""
        pinned = self.device.allocate_pinned(content.nbytes)
        try:
            pinned[...] = content.reshape(-1).view(np.uint8)
            self.device.copy_in(address, pinned, self.stream)
            self.device.wait(self.stream)
        finally:
            self.device.free_pinned(pinned)

    def release(self) -> None:
        """Free all buffers, contexts and graphs; the next run makes those that it needs."""
        self._drop_all()
        let_go(self.device, (address for address, _ in self._memory.values()), self._pinned.values())
        self._memory.clear()
        self._pinned.clear()
        self._filled.clear()

    def close(self) -> None:
        """Free everything; a device that is lost does not keep it from letting go of the rest."""
        self.release()
        while self._events:
            with suppress(CudaError):
                self.device.free_event(self._events.pop())
        if self.stream:
            with suppress(CudaError):
                self.device.free_stream(self.stream)
            self.stream = 0

    def _get(self, plan: Plan, shapes: dict[str, Shape], from_host: list[str], to_host: bool) -> _Ready:
        """What is ready for these shapes, with buffers that hold them."""
        key = (plan.role, to_host, *shapes.items(), *from_host)
        ready = self._ready.get(key)
        if ready is not None:
            self._ready.move_to_end(key)
            return ready
        while len(self._ready) >= _KEPT:
            self._drop(self._ready.popitem(last=False)[1])
        context, scratch = plan.context(plan.profile(shapes), self.stream, shapes)
        ready = _Ready(context, plan.output_shapes(context))
        sizes = {n: _size(shape, plan.dtypes[n]) for n, shape in {**shapes, **ready.outputs}.items()}
        try:
            for name, size in sizes.items():
                self._room((plan.role, name), size)
                if name in from_host or (to_host and name in ready.outputs):
                    self._pin((plan.role, name), size)
            plan.use_scratch(context, self._room(_SCRATCH, scratch), scratch)
            plan.bind(context, {name: self._memory[plan.role, name][0] for name in sizes})
        except EngineError:
            self._drop(ready)
            raise
        self._ready[key] = ready
        return ready

    def _room(self, name: _Name, size: int) -> int:
        """Device memory of that size at least; what was made for a smaller one is dropped with it."""
        address, there = self._memory.get(name, (0, 0))
        if there < size:
            # contexts and graphs hold the address
            self._drop_all()
            self._filled.pop(name, None)
            if there:
                del self._memory[name]
                self.device.free(address)
            address = self.device.allocate(size)
            self._memory[name] = (address, size)
        return address

    def _pin(self, name: _Name, size: int) -> None:
        array = self._pinned.get(name)
        if array is None or array.nbytes < size:
            self._drop_all()
            if array is not None:
                self.device.free_pinned(self._pinned.pop(name))
            self._pinned[name] = self.device.allocate_pinned(size)

    def _staging(self, plan: Plan, name: str, shape: Shape) -> NDArray[Any]:
        dtype = plan.dtypes[name]
        return self._pinned[plan.role, name][: _size(shape, dtype)].view(dtype).reshape(shape)

    def _take(self, role: str, name: str, array: DeviceArray) -> None:
        """Queue the copy of an array of the device into the lane's buffer, unless it is there already."""
        if array.stream:
            self.device.follow(self.stream, array.stream)
        last, *place = self._filled.get((role, name), (None, 0, 0))
        kept = array.owner if isinstance(array.owner, Kept) else None
        if kept is not None and last is not None and last() is kept and place == [array.address, array.nbytes]:
            return
        self._filled.pop((role, name), None)
        self.device.copy_within(self._memory[role, name][0], array.address, array.nbytes, self.stream)
        if kept is not None:
            self._filled[role, name] = (weakref.ref(kept), array.address, array.nbytes)

    def _execute(self, plan: Plan, ready: _Ready, from_host: dict[str, Shape], to_host: dict[str, Shape]) -> None:
        self._mark(0)
        for name, shape in from_host.items():
            size, place = _size(shape, plan.dtypes[name]), (plan.role, name)
            self.device.copy_in(self._memory[place][0], self._pinned[place][:size], self.stream)
        self._mark(1)
        if ready.graph is None and ready.runs == 1 and self.graphs:
            self._capture(plan, ready)
        if ready.graph is not None:
            self.device.launch(ready.graph, self.stream)
        else:
            plan.enqueue(ready.context, self.stream)
        self._mark(2)
        for name, shape in to_host.items():
            size, place = _size(shape, plan.dtypes[name]), (plan.role, name)
            self.device.copy_out(self._pinned[place][:size], self._memory[place][0], self.stream)
        self._mark(3)

    def _mark(self, number: int) -> None:
        if self._events:
            self.device.record(self._events[number], self.stream)

    def _capture(self, plan: Plan, ready: _Ready) -> None:
        if not plan.capturable(ready.context, self.stream):
            self.without_graph = f"{plan.library.title} says that this cannot be captured"
            return
        try:
            ready.graph = self.device.capture(self.stream, lambda: plan.enqueue(ready.context, self.stream))
        except EngineError as error:
            # what cannot be captured still runs, launch by launch
            self.without_graph = str(error)

    def _drop_all(self) -> None:
        while self._ready:
            self._drop(self._ready.popitem()[1])

    def _drop(self, ready: _Ready) -> None:
        if ready.graph is not None:
            with suppress(CudaError):
                self.device.free_graph(ready.graph)
        ready.graph = ready.context = None


def _size(shape: Shape, dtype: "np.dtype[Any]") -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

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
from ntre_deploy.runtime.cuda import Bytes, CudaError, Device
from ntre_deploy.runtime.cuda.arrays import DeviceArray
from ntre_deploy.runtime.cuda.buffers import Buffers, Name
from ntre_deploy.runtime.engines.tensorrt.plan import Plan, Shape

Float = NDArray[np.float32]
Inputs = Mapping[str, "NDArray[Any] | DeviceArray"]

# sets of shapes that are kept ready; each has a context and a graph
_KEPT = 8
# around the ways to the device and back
_EVENTS = 4
# where all contexts lay their scratch memory; inputs and outputs have role and name
_SCRATCH = "scratch"


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
        self._buffers = Buffers(device, self._outgrown)
        # what was copied last into a buffer, where it stays as it was, and where it lay with how many bytes
        self._filled: dict[Name, tuple[weakref.ref[Kept], int, int]] = {}
        self.stream = device.make_stream()
        # milliseconds to the device and back of all runs since `watch`, None before, and the events that tell
        self.transfers: list[float] | None = None
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
        if self.transfers is not None:
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
            DeviceArray(self._room(plan, n, shape), shape, dtype=plan.dtypes[n], device=self.device.index)
            for n, shape in ready.outputs.items()
        ]

    def _run(self, plan: Plan, inputs: Inputs, *, to_host: bool, wait: bool = True) -> _Ready:
        given = {name: inputs[name] for name in plan.inputs}
        shapes = {name: tuple(array.shape) for name, array in given.items()}
        from_host = [name for name, array in given.items() if not isinstance(array, DeviceArray)]
        ready = self._get(plan, shapes)
        begun = time.perf_counter()
        try:
            for name, array in given.items():
                if isinstance(array, DeviceArray):
                    self._take(plan, name, array)
                else:
                    self._filled.pop((plan.role, name), None)
                    self._staging(plan, name, shapes[name])[...] = array
            if self.transfers is not None and to_host:
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
        self._buffers.free()
        self._filled.clear()

    def close(self) -> None:
        """Free everything; a device that is lost does not keep it from letting go of the rest."""
        self.release()
        self.transfers = None
        while self._events:
            with suppress(CudaError):
                self.device.free_event(self._events.pop())
        if self.stream:
            with suppress(CudaError):
                self.device.free_stream(self.stream)
            self.stream = 0

    def _get(self, plan: Plan, shapes: dict[str, Shape]) -> _Ready:
        """What is ready for these shapes, with device memory that holds them."""
        key = (plan.role, *shapes.items())
        ready = self._ready.get(key)
        if ready is not None:
            self._ready.move_to_end(key)
            return ready
        while len(self._ready) >= _KEPT:
            self._drop(self._ready.popitem(last=False)[1])
        context, scratch = plan.context(plan.profile(shapes), self.stream, shapes)
        ready = _Ready(context, plan.output_shapes(context))
        try:
            places = {name: self._room(plan, name, shape) for name, shape in {**shapes, **ready.outputs}.items()}
            plan.use_scratch(context, self._buffers.room(_SCRATCH, scratch), scratch)
            plan.bind(context, places)
        except EngineError:
            self._drop(ready)
            raise
        self._ready[key] = ready
        return ready

    def _outgrown(self, name: Name) -> None:
        # contexts and graphs hold its address
        self._drop_all()
        self._filled.pop(name, None)

    def _room(self, plan: Plan, name: str, shape: Shape) -> int:
        return self._buffers.room((plan.role, name), _size(shape, plan.dtypes[name]))

    def _pinned(self, plan: Plan, name: str, shape: Shape) -> Bytes:
        return self._buffers.staging((plan.role, name), _size(shape, plan.dtypes[name]))

    def _staging(self, plan: Plan, name: str, shape: Shape) -> NDArray[Any]:
        return self._pinned(plan, name, shape).view(plan.dtypes[name]).reshape(shape)

    def _take(self, plan: Plan, name: str, array: DeviceArray) -> None:
        """Queue the copy of an array of the device into the lane's buffer, unless it is there already."""
        if array.stream:
            self.device.follow(self.stream, array.stream)
        buffer = (plan.role, name)
        last, *place = self._filled.get(buffer, (None, 0, 0))
        kept = array.owner if isinstance(array.owner, Kept) else None
        if kept is not None and last is not None and last() is kept and place == [array.address, array.nbytes]:
            return
        self._filled.pop(buffer, None)
        self.device.copy_within(self._room(plan, name, array.shape), array.address, array.nbytes, self.stream)
        if kept is not None:
            self._filled[buffer] = (weakref.ref(kept), array.address, array.nbytes)

    def _execute(self, plan: Plan, ready: _Ready, from_host: dict[str, Shape], to_host: dict[str, Shape]) -> None:
        self._mark(0)
        for name, shape in from_host.items():
            self.device.copy_in(self._room(plan, name, shape), self._pinned(plan, name, shape), self.stream)
        self._mark(1)
        if ready.graph is None and ready.runs == 1 and self.graphs:
            self._capture(plan, ready)
        if ready.graph is not None:
            self.device.launch(ready.graph, self.stream)
        else:
            plan.enqueue(ready.context, self.stream)
        self._mark(2)
        for name, shape in to_host.items():
            self.device.copy_out(self._pinned(plan, name, shape), self._room(plan, name, shape), self.stream)
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

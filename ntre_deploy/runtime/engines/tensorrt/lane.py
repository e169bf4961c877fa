"""Executing plans on one stream: staging buffers, an execution context for each shape, CUDA graphs."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.cuda import Bytes, CudaError, Device, let_go
from ntre_deploy.runtime.cuda.arrays import DeviceArray
from ntre_deploy.runtime.engines.tensorrt.plan import Plan, Shape

Float = NDArray[np.float32]
Inputs = Mapping[str, "Float | DeviceArray"]

# sets of shapes (and addresses of foreign arrays) that are kept ready; each has buffers and a graph
_KEPT = 8
_ITEM = 4  # bytes of a float32
# of an address that TensorRT reads or writes
_ALIGNMENT = 256


@dataclass
class _Ready:
    """Everything for one set of shapes."""

    context: Any
    outputs: dict[str, Shape]
    addresses: dict[str, int]
    # of the inputs from the host, and of all outputs
    pinned: dict[str, Bytes] = field(default_factory=dict)
    owned: list[int] = field(default_factory=list)
    # arrays of the device that lie where TensorRT cannot read them, by their addresses, and their sizes
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)
    graph: int | None = None
    runs: int = 0


class Lane:
    """A stream and what runs on it; belongs to one thread at a time.

    The primary context has to be current in every call.

    Args:
        graphs: capture each set of shapes into a CUDA graph at its second run; the first compiles and allocates.
    """

    def __init__(self, device: Device, *, graphs: bool = True) -> None:
        self._device = device
        self.graphs = graphs and device.graphs
        # why shapes run without a graph, where one was tried
        self.without_graph = ""
        self._ready: OrderedDict[tuple[object, ...], _Ready] = OrderedDict()
        self._scratch: dict[tuple[str, int], int] = {}
        self.stream = device.make_stream()

    def run(self, plan: Plan, inputs: Inputs) -> list[Float]:
        """Execute a plan and wait for it.

        Args:
            inputs: float32 arrays of the host, or arrays on the device, which are read in place where they are aligned.

        Returns:
            float32 arrays of the host, in the plan's order, shaped as `Engine.support` or `Engine.query` give them.

        Raises:
            EngineError: it failed.
        """
        ready = self._run(plan, inputs, to_host=True)
        return [ready.pinned[n].view(np.float32).reshape(shape).copy() for n, shape in ready.outputs.items()]

    def run_on_device(self, plan: Plan, inputs: Inputs, *, wait: bool = True) -> list[DeviceArray]:
        """As `run`, with arrays on the device, which the next run of the same shapes overwrites.

        Args:
            wait: without it, the work is only queued; `stream` must be waited for before the next run.

        Raises:
            EngineError: it failed.
        """
        ready = self._run(plan, inputs, to_host=False, wait=wait)
        return [DeviceArray(ready.addresses[n], shape) for n, shape in ready.outputs.items()]

    def _run(self, plan: Plan, inputs: Inputs, *, to_host: bool, wait: bool = True) -> _Ready:
        shapes = {name: tuple(inputs[name].shape) for name in plan.inputs}
        foreign = {n: a for n in plan.inputs if isinstance(a := inputs[n], DeviceArray)}
        key = (plan.role, to_host, *shapes.items(), *((name, array.address) for name, array in foreign.items()))
        ready = self._ready.get(key)
        if ready is None:
            while len(self._ready) >= _KEPT:
                self._drop(self._ready.popitem(last=False)[1])
            ready = self._ready[key] = self._prepare(plan, shapes, foreign, to_host)
        self._ready.move_to_end(key)
        for name, array in inputs.items():
            if isinstance(array, DeviceArray):
                if array.stream:
                    self._device.follow(self.stream, array.stream)
            else:
                ready.pinned[name].view(np.float32).reshape(array.shape)[...] = array
        try:
            self._execute(plan, ready)
            if wait:
                self._device.wait(self.stream)
        except EngineError:
            # its context may be in any state
            self._drop(self._ready.pop(key))
            raise
        ready.runs += 1
        return ready

    def fill(self, address: int, content: Float) -> None:
        """Copy a C-contiguous float32 array [...] to device memory, and wait for it."""
        pinned = self._device.allocate_pinned(content.nbytes)
        try:
            pinned[...] = content.reshape(-1).view(np.uint8)
            self._device.copy_in(address, pinned, self.stream)
            self._device.wait(self.stream)
        finally:
            self._device.free_pinned(pinned)

    def close(self) -> None:
        """Free everything; a device that is lost does not keep it from letting go of the rest."""
        while self._ready:
            self._drop(self._ready.popitem()[1])
        let_go(self._device, self._scratch.values())
        self._scratch.clear()
        if self.stream:
            with suppress(CudaError):
                self._device.free_stream(self.stream)
            self.stream = 0

    def _prepare(self, plan: Plan, shapes: dict[str, Shape], foreign: dict[str, DeviceArray], to_host: bool) -> _Ready:
        profile = plan.profile(shapes)
        scratch = self._scratch.get((plan.role, profile))
        if scratch is None:
            scratch = self._scratch[plan.role, profile] = self._device.allocate(plan.scratch(profile))
        context = plan.context(profile, self.stream, scratch, shapes)
        in_place = {n: a.address for n, a in foreign.items() if a.address % _ALIGNMENT == 0}
        ready = _Ready(context, plan.output_shapes(context), in_place)
        try:
            for name, shape in {**shapes, **ready.outputs}.items():
                if name in in_place:
                    continue
                size = int(np.prod(shape, dtype=np.int64)) * _ITEM
                ready.addresses[name] = self._device.allocate(size)
                ready.owned.append(ready.addresses[name])
                if name in foreign:
                    ready.moved[name] = (foreign[name].address, size)
                elif to_host or name in shapes:
                    ready.pinned[name] = self._device.allocate_pinned(size)
            plan.bind(context, ready.addresses)
        except EngineError:
            self._drop(ready)
            raise
        return ready

    def _execute(self, plan: Plan, ready: _Ready) -> None:
        if ready.graph is None and ready.runs == 1 and self.graphs:
            self._capture(plan, ready)
        if ready.graph is not None:
            self._device.launch(ready.graph, self.stream)
        else:
            self._queue(plan, ready)

    def _queue(self, plan: Plan, ready: _Ready) -> None:
        for name in plan.inputs:
            if name in ready.pinned:
                self._device.copy_in(ready.addresses[name], ready.pinned[name], self.stream)
        for name, (source, size) in ready.moved.items():
            self._device.copy_within(ready.addresses[name], source, size, self.stream)
        plan.enqueue(ready.context, self.stream)
        for name in plan.outputs:
            if name in ready.pinned:
                self._device.copy_out(ready.pinned[name], ready.addresses[name], self.stream)

    def _capture(self, plan: Plan, ready: _Ready) -> None:
        if not plan.capturable(ready.context, self.stream):
            self.without_graph = f"{plan.library.title} says that this cannot be captured"
            return
        try:
            ready.graph = self._device.capture(self.stream, lambda: self._queue(plan, ready))
        except EngineError as error:
            # what cannot be captured still runs, launch by launch
            self.without_graph = str(error)

    def _drop(self, ready: _Ready) -> None:
        if ready.graph is not None:
            with suppress(CudaError):
                self._device.free_graph(ready.graph)
        ready.graph = ready.context = None
        let_go(self._device, ready.owned, ready.pinned.values())
        ready.owned.clear()
        ready.pinned.clear()

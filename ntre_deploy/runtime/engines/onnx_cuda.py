"""ONNX Runtime on CUDA: inputs and outputs bound to the GPU's memory, one CUDA graph for each set of shapes."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cuda.arrays import is_device_array, view
from ntre_deploy.runtime.engines.onnx import (
    CUDA,
    cuda_unavailable,
    failed,
    input_types,
    make_session,
    read_graphs,
)
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Shape = tuple[int, ...]

NAME = "onnx-cuda"
# sets of shapes whose buffers are kept
_KEPT = 8
# ONNX Runtime's number for "this run is no graph"
_NO_GRAPH = -1
# a session keeps every graph that it has captured, so sets of buffers after these run without one
_MOST_GRAPHS = 64


def unavailable() -> str | None:
    """Why ONNX Runtime's CUDA provider cannot run here, or None; a session may still refuse it."""
    return cuda_unavailable()


def lacks(precision: str) -> str | None:
    """Why a bundle's files in a precision are not run here, or None."""
    if precision in ("bf16", "fp8"):
        return (
            f"the {precision} files are what TensorRT plans are built from, and were never tried on ONNX Runtime's CUDA"
        )
    return None


def open_cuda(bundle: Bundle, precision: str, options: EngineOptions) -> "OnnxCudaEngine":
    """The bundle's graphs on the first GPU.

    Raises:
        EngineError: ONNX Runtime does not run that precision, or fell back to another provider.
    """
    if reason := lacks(precision):
        raise EngineError(f"{NAME} does not run {precision}: {reason}.")
    contents = read_graphs(bundle, precision)
    return OnnxCudaEngine(precision, contents["support"], contents["query"], options.threads)


@dataclass
class KeptArray:
    """An array in the memory of ONNX Runtime's device."""

    value: Any
    shape: Shape


@dataclass
class _Ready:
    """Bound buffers for one set of shapes."""

    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]
    graph: int


class OnnxCudaEngine:
    """Two sessions; clones share them, take turns in them and have buffers of their own.

    Inputs are float32 arrays of the host, or arrays in the GPU's memory (`__cuda_array_interface__`, DLPack), which
    are read in place.

    Args:
        support, query: ONNX files.
        provider, place: `CPUExecutionProvider` and `cpu` bind to host memory, without graphs.

    Raises:
        EngineError: ONNX Runtime cannot load a graph, or takes another provider.
    """

    name = NAME

    def __init__(
        self,
        precision: str,
        support: bytes,
        query: bytes,
        threads: int | None = None,
        *,
        provider: str = CUDA,
        place: str = "cuda",
    ) -> None:
        self.precision = precision
        self._place = place
        self._sessions = {
            role: _Session(content, provider, threads, graphs=place == "cuda")
            for role, content in (("support", support), ("query", query))
        }
        self._ready: OrderedDict[tuple[object, ...], _Ready] = OrderedDict()
        # a CUDA graph is captured and replayed by one thread at a time, and graphs share ONNX Runtime's scratch memory
        self._turn = threading.Lock()

    def support(self, image: Any, mask: Any) -> tuple[Float, Float]:
        """See `Engine.support`."""
        prototype, keys = self._run("support", {"image": image, "mask": mask})
        return prototype, keys

    def query(self, image: Any, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        (logits,) = self._run("query", {"image": image, **supports._asdict()})
        return logits

    def keep(self, supports: StackedSupports) -> StackedSupports:
        """Supports moved to the device in the types of the graph, once for all queries that use them."""
        types = self._sessions["query"].types
        return StackedSupports(*(self._upload(array, types[name]) for name, array in supports._asdict().items()))

    def clone(self) -> "OnnxCudaEngine":
        """Shares the sessions, in which clones take turns, and not the buffers."""
        twin = object.__new__(OnnxCudaEngine)
        twin.__dict__ = self.__dict__ | {"_ready": OrderedDict()}
        return twin

    def _upload(self, array: NDArray[Any], dtype: "np.dtype[Any]") -> KeptArray:
        import onnxruntime

        content = np.ascontiguousarray(array, dtype)
        try:
            return KeptArray(onnxruntime.OrtValue.ortvalue_from_numpy(content, self._place, 0), content.shape)
        except Exception as error:
            raise failed(error) from error

    def _run(self, role: str, inputs: dict[str, Any]) -> list[Float]:
        with self._turn:
            return self._run_alone(role, inputs)

    def _run_alone(self, role: str, inputs: dict[str, Any]) -> list[Float]:
        session = self._sessions[role]
        # a graph keeps addresses, so it serves buffers of this engine alone
        types = session.types
        foreign = {name: _foreign(array, name, types[name]) for name, array in inputs.items() if is_device_array(array)}
        kept = {name: array for name, array in inputs.items() if isinstance(array, KeptArray)}
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        key = (role, *shapes.items(), *((n, id(a.value)) for n, a in kept.items()), *sorted(foreign))
        try:
            ready = self._ready.get(key)
            if ready is None:
                while len(self._ready) >= _KEPT:
                    self._ready.popitem(last=False)
                ready = self._ready[key] = self._bind(session, shapes, kept, bool(foreign))
            self._ready.move_to_end(key)
            for name, array in inputs.items():
                if name in foreign:
                    found = foreign[name]
                    ready.binding.bind_input(name, self._place, 0, types[name], found.shape, found.address)
                elif name not in kept:
                    ready.inputs[name].update_inplace(np.ascontiguousarray(array, types[name]))
            session.run(ready.binding, ready.graph)
            # from the GPU this is a copy, from the host it is the buffer itself
            return [np.array(output.numpy(), copy=True if self._place == "cpu" else None) for output in ready.outputs]
        except EngineError:
            raise
        except Exception as error:
            self._ready.pop(key, None)
            raise failed(error) from error

    def _bind(self, session: "_Session", shapes: dict[str, Shape], kept: dict[str, KeptArray], foreign: bool) -> _Ready:
        binding = session.session.io_binding()
        inputs: dict[str, Any] = {}
        for name, shape in shapes.items():
            if name in kept:
                inputs[name] = kept[name].value
            elif not foreign:
                inputs[name] = self._empty(shape, session.types[name])
            if name in inputs:
                binding.bind_ortvalue_input(name, inputs[name])
        if foreign:
            # bound to their own addresses before every run; those that are not foreign get buffers here
            inputs |= {n: self._empty(shape, session.types[n]) for n, shape in shapes.items() if n not in inputs}
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
        outputs = []
        for name, shape in session.output_shapes(shapes).items():
            outputs.append(self._empty(shape))
            binding.bind_ortvalue_output(name, outputs[-1])
        return _Ready(binding, inputs, outputs, _NO_GRAPH if foreign else session.next_graph())

    def _empty(self, shape: Shape, dtype: Any = np.float32) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._place, 0)


class _Session:
    """A session; with CUDA graphs where the whole graph lies on the GPU."""

    def __init__(self, content: bytes, provider: str, threads: int | None, *, graphs: bool) -> None:
        self.graphs = graphs
        # what is fp32 in a file is so on purpose, and TF32 has the mantissa of fp16
        exact = {"use_tf32": "0"} if provider == CUDA else {}
        if graphs:
            try:
                self.session = make_session(content, provider, threads, exact | {"enable_cuda_graph": "1"})
            except EngineError:
                # a node that stays on the CPU keeps ONNX Runtime from capturing, and from loading with that option
                self.graphs = False
        if not self.graphs:
            self.session = make_session(content, provider, threads, exact)
        self.types = input_types(self.session)
        self._numbers = 0

    def next_graph(self) -> int:
        """A number for another set of buffers."""
        if not self.graphs or self._numbers == _MOST_GRAPHS:
            return _NO_GRAPH
        self._numbers += 1
        return self._numbers

    def run(self, binding: Any, graph: int) -> None:
        """Run once and wait; ONNX Runtime captures at the first run of a number and replays it later."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        if self.graphs:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    def output_shapes(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Shapes of the outputs; their open axes lead, and are the batch and the number of classes."""
        batch, classes = shapes["image"][0], shapes.get("prototypes", (0,))[0]
        found = {}
        for output in self.session.get_outputs():
            sizes = iter((batch, classes))
            found[output.name] = tuple(n if isinstance(n, int) else next(sizes) for n in output.shape)
        return found


def _foreign(array: Any, name: str, dtype: "np.dtype[Any]") -> Any:
    device = cuda.open_device()
    try:
        # ONNX Runtime's own stream cannot be named here, so what the array waits for is waited for
        found = view(array, name, 1, dtype)
        with device.active():
            device.wait(found.stream or 1)
        return found
    finally:
        device.close()

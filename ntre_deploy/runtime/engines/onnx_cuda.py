"""ONNX Runtime on CUDA: inputs and outputs bound to the GPU's memory, one CUDA graph for each set of shapes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cuda.arrays import DeviceArray, is_device_array, view
from ntre_deploy.runtime.engines.onnx import CUDA, cuda_unavailable, failed, input_types, make_session, read_graphs
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.stacked import StackedSupports

if TYPE_CHECKING:
    from ntre_deploy.runtime.cuda.images import Images

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Shape = tuple[int, ...]

NAME = "onnx-cuda"
# sets of shapes whose buffers are kept
_KEPT = 8
# owner of device memory that an engine reads in place, at an address that stays
OWN = object()
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
    """The bundle's graphs on a GPU.

    Raises:
        EngineError: ONNX Runtime does not run that precision, or fell back to another provider; there is no such GPU,
            or it is too old for `device_images`.
    """
    if reason := lacks(precision):
        raise EngineError(f"{NAME} does not run {precision}: {reason}.")
    contents = read_graphs(bundle, precision)
    return OnnxCudaEngine(
        precision,
        contents["support"],
        contents["query"],
        options.threads,
        device=options.device,
        device_images=options.device_images,
    )


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
        device, device_images: see `EngineOptions`.

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
        device: int = 0,
        device_images: bool = False,
    ) -> None:
        self.precision = precision
        self._place, self._device = place, device
        self._sessions = {
            role: _Session(content, provider, threads, device, graphs=place == "cuda")
            for role, content in (("support", support), ("query", query))
        }
        self._ready: OrderedDict[tuple[object, ...], _Ready] = OrderedDict()
        # a CUDA graph is captured and replayed by one thread at a time, and graphs share ONNX Runtime's scratch memory
        self._turn = threading.Lock()
        self._transfers: list[float] | None = None
        self._pictures = _Pictures(device) if device_images else None

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
        pictures = None if self._pictures is None else _Pictures(self._device)
        twin.__dict__ = self.__dict__ | {"_ready": OrderedDict(), "_transfers": None, "_pictures": pictures}
        return twin

    def watch_transfers(self) -> None:
        """Let `transfer_ms` tell of every query from now on."""
        self._transfers = [0.0, 0.0]

    @property
    def transfer_ms(self) -> tuple[float, float] | None:
        """Milliseconds that the last query spent on the way to the device and back; None if not watched."""
        return None if self._transfers is None else (self._transfers[0], self._transfers[1])

    def label(self, image: Pixels, spec: InputSpec, supports: StackedSupports) -> tuple[Pixels, Float] | None:
        """See `label_on_device`: uint8 RGB [H, W, 3] to labels [H, W] and logits [N, 2, h, w].

        None where `device_images` is off.

        Raises:
            EngineError: it failed.
        """
        pictures = self._pictures
        if pictures is None:
            return None
        with pictures.at_work() as images:
            pixels, box = images.prepare(image, spec)
            # ONNX Runtime works on a stream of its own
            pictures.wait()
            with self._turn:
                (logits,) = self._run_there("query", {"image": pixels, **supports._asdict()})
                shape, address = tuple(logits.shape()), logits.data_ptr()
                return images.label_map(DeviceArray(address, shape, device=self._device), box)

    def _upload(self, array: NDArray[Any], dtype: "np.dtype[Any]") -> KeptArray:
        import onnxruntime

        content = np.ascontiguousarray(array, dtype)
        try:
            return KeptArray(
                onnxruntime.OrtValue.ortvalue_from_numpy(content, self._place, self._device), content.shape
            )
        except Exception as error:
            raise failed(error) from error

    def _run(self, role: str, inputs: dict[str, Any]) -> list[Float]:
        with self._turn:
            outputs = self._run_there(role, inputs)
            begun = time.perf_counter()
            # from the GPU this is a copy, from the host it is the buffer itself
            found = [np.array(output.numpy(), copy=True if self._place == "cpu" else None) for output in outputs]
            if self._transfers is not None:
                self._transfers[1] = 1e3 * (time.perf_counter() - begun)
        return found

    def _run_there(self, role: str, inputs: dict[str, Any]) -> list[Any]:
        """Outputs on the device, which the next run of these shapes overwrites."""
        session = self._sessions[role]
        # a graph keeps addresses, so it serves buffers of this engine alone
        types = session.types
        own = {name: array for name, array in inputs.items() if isinstance(array, DeviceArray) and array.owner is OWN}
        foreign = {
            name: self._foreign(array, name, types[name])
            for name, array in inputs.items()
            if name not in own and is_device_array(array)
        }
        kept = {name: array for name, array in inputs.items() if isinstance(array, KeptArray)}
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        fixed = (*((n, id(a.value)) for n, a in kept.items()), *((n, a.address) for n, a in own.items()))
        key = (role, *shapes.items(), *fixed, *sorted(foreign))
        try:
            ready = self._ready.get(key)
            if ready is None:
                while len(self._ready) >= _KEPT:
                    self._ready.popitem(last=False)
                ready = self._ready[key] = self._bind(session, shapes, kept, own, bool(foreign))
            self._ready.move_to_end(key)
            begun = time.perf_counter()
            for name, array in inputs.items():
                if name in foreign:
                    found = foreign[name]
                    self._bind_address(ready.binding, name, types[name], found)
                elif name not in kept and name not in own:
                    ready.inputs[name].update_inplace(np.ascontiguousarray(array, types[name]))
            ready.binding.synchronize_inputs()
            if self._transfers is not None:
                self._transfers[0] = 1e3 * (time.perf_counter() - begun)
            session.run(ready.binding, ready.graph)
            return ready.outputs
        except EngineError:
            raise
        except Exception as error:
            self._ready.pop(key, None)
            raise failed(error) from error

    def _bind(
        self,
        session: "_Session",
        shapes: dict[str, Shape],
        kept: dict[str, KeptArray],
        own: dict[str, DeviceArray],
        foreign: bool,
    ) -> _Ready:
        binding = session.session.io_binding()
        inputs: dict[str, Any] = {}
        for name, array in own.items():
            self._bind_address(binding, name, session.types[name], array)
        shapes_left = {name: shape for name, shape in shapes.items() if name not in own}
        for name, shape in shapes_left.items():
            if name in kept:
                inputs[name] = kept[name].value
            elif not foreign:
                inputs[name] = self._empty(shape, session.types[name])
            if name in inputs:
                binding.bind_ortvalue_input(name, inputs[name])
        if foreign:
            # bound to their own addresses before every run; those that are not foreign get buffers here
            inputs |= {n: self._empty(shape, session.types[n]) for n, shape in shapes_left.items() if n not in inputs}
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
        outputs = []
        for name, shape in session.output_shapes(shapes).items():
            outputs.append(self._empty(shape))
            binding.bind_ortvalue_output(name, outputs[-1])
        return _Ready(binding, inputs, outputs, _NO_GRAPH if foreign else session.next_graph())

    def _bind_address(self, binding: Any, name: str, dtype: "np.dtype[Any]", array: DeviceArray) -> None:
        binding.bind_input(name, self._place, self._device, dtype, array.shape, array.address)

    def _empty(self, shape: Shape, dtype: Any = np.float32) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self._place, self._device)

    def _foreign(self, array: Any, name: str, dtype: "np.dtype[Any]") -> Any:
        device = cuda.open_device(index=self._device)
        try:
            # ONNX Runtime's own stream cannot be named here, so what the array waits for is waited for
            found = view(array, name, 1, dtype, self._device)
            with device.active():
                device.wait(found.stream or 1)
            return found
        finally:
            device.close()


class _Pictures:
    """Pre- and post-processing by the kernels: a device, a stream and what lies on it, for one engine at a time."""

    def __init__(self, index: int) -> None:
        # the kernels are a part of the package only where it is installed
        from ntre_deploy.runtime.cuda.images import Images

        self._device = cuda.open_device(index=index)
        self._stream = 0
        try:
            with self._device.active():
                self._stream = self._device.make_stream()
                self._images = Images(self._device, self._stream, OWN)
        except EngineError:
            self._let_go()
            raise

    @contextmanager
    def at_work(self) -> "Iterator[Images]":
        """The images, with their device active."""
        with self._device.active():
            yield self._images

    def wait(self) -> None:
        """Until what was queued is done."""
        self._device.wait(self._stream)

    def _let_go(self) -> None:
        with suppress(cuda.CudaError):
            with self._device.active():
                if self._stream:
                    self._device.free_stream(self._stream)
            self._device.close()

    def __del__(self) -> None:
        # the driver may be gone before this, when Python ends
        with suppress(Exception):
            with self._device.active():
                self._images.close()
            self._let_go()


class _Session:
    """A session; with CUDA graphs where the whole graph lies on the GPU."""

    def __init__(self, content: bytes, provider: str, threads: int | None, device: int, *, graphs: bool) -> None:
        self.graphs = graphs
        # what is fp32 in a file is so on purpose, and TF32 has the mantissa of fp16
        exact = {"use_tf32": "0", "device_id": str(device)} if provider == CUDA else {}
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

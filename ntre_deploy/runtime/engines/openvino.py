"""OpenVINO on the CPU: reads the bundle's ONNX files, in the precision that was asked for and in no other.

OpenVINO chooses bfloat16 by itself where the processor has it.  So the precision is always named, and what the
compiled graphs really use is read back before the first image.
"""

import functools
import importlib.util
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError, one_of
from ntre_deploy.files import plain_name
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cpu import native_bf16
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.onnxfile import check_self_contained
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Shape = tuple[int, ...]

NAME = "openvino"
PRECISIONS = ("fp32", "bf16", "int8")
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_FOUND = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
# compiled graphs kept; each holds the weights in the processor's own layout
_KEPT = 4


def unavailable() -> str | None:
    """Why OpenVINO cannot run here, or None."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed (pip install 'ntre_deploy[openvino]')"
    try:
        import openvino

        openvino.Core  # noqa: B018
    # a broken install fails in ways of its own
    except Exception as error:
        return f"openvino is installed but broken ({_first_line(error)}); pip install --force-reinstall openvino"
    return None


def lacks(precision: str) -> str | None:
    """Why this processor cannot run a precision, or None; int8 runs everywhere."""
    if precision == "bf16" and not native_bf16():
        return "this processor has no bf16 instructions (AMX-BF16 or AVX512-BF16)"
    return None


def open_cpu(bundle: Bundle, precision: str, options: EngineOptions) -> "OpenVinoEngine":
    """The bundle's graphs on the CPU.

    Raises:
        InputError: the bundle was not exported for this, or the cache folder cannot be written.
        EngineError: the precision cannot be had here.
    """
    entry = bundle.built(NAME, precision)
    if entry is None:
        raise InputError(f"{bundle.folder} was not exported for {NAME} in {precision}; export it with --engine {NAME}.")
    contents = {}
    for role, name in (("support", entry.support), ("query", entry.query)):
        contents[role] = bundle.read(bundle.file(name))
        check_self_contained(contents[role], name)
    return OpenVinoEngine(precision, contents["support"], contents["query"], options)


class OpenVinoEngine:
    """Two graphs given as the bytes of ONNX files; clones share them and have inference requests of their own.

    A graph is compiled for each batch and number of classes when they first occur: with these two fixed, it runs about
    as fast as with every axis fixed, and up to a third faster on small networks than with all of them open.

    Args:
        precision: `fp32`, `bf16`, or `int8` for QDQ files, whose other layers run in bf16 where the processor has it.
        support, query: ONNX files.

    Raises:
        InputError: an unknown precision.
        EngineError: OpenVINO cannot load the graphs, or not in that precision.
    """

    name = NAME

    def __init__(
        self,
        precision: str,
        support: bytes,
        query: bytes,
        options: EngineOptions = EngineOptions(),  # noqa: B008
    ) -> None:
        one_of(precision, PRECISIONS, f"Precision of {NAME}")
        if reason := lacks(precision):
            raise EngineError(f"openvino cannot run {precision} here: {reason}; take fp32.")
        self.precision = precision
        # of the layers that are not quantised
        self.rest = ("bf16" if native_bf16() else "fp32") if precision == "int8" else precision
        self._support = _Graph(support, self.rest, options)
        self._query = _Graph(query, self.rest, options)
        # compiled here, so that what cannot be had is said at load and not at the first image
        self._support.compiled((1,))
        self._query.compiled((1, 1))
        self._requests: dict[int, tuple[Any, Any]] = {}

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """See `Engine.support`."""
        prototype, keys = self._run(self._support, (len(image),), image=image, mask=mask)
        return prototype, keys

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        sizes = (len(image), len(supports.prototypes))
        (logits,) = self._run(self._query, sizes, image=image, **supports._asdict())
        return logits

    def clone(self) -> "OpenVinoEngine":
        """Shares the compiled graphs; OpenVINO's inference requests belong to one thread each."""
        twin = object.__new__(OpenVinoEngine)
        twin.__dict__ = self.__dict__ | {"_requests": {}}
        return twin

    def kernels(self) -> dict[str, dict[str, dict[str, int]]]:
        """What the compiled graphs run: graph -> kind of layer -> execution type -> number of layers."""
        graphs = {"support": self._support.compiled((1,)), "query": self._query.compiled((1, 1))}
        return {role: execution_types(compiled) for role, compiled in graphs.items()}

    def _run(self, graph: "_Graph", sizes: Shape, **inputs: NDArray[Any]) -> list[Float]:
        try:
            compiled = graph.compiled(sizes)
            kept = self._requests.get(id(graph))
            if kept is None or kept[0] is not compiled:
                kept = self._requests[id(graph)] = compiled, compiled.create_infer_request()
            shared = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            # inputs are read in place; outputs are copied, because the next call writes over them
            result = kept[1].infer(shared, share_inputs=True, share_outputs=False)
            return [np.asarray(result[i]) for i in range(len(compiled.outputs))]
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"OpenVINO failed while it ran: {_first_line(error)}") from error


@functools.cache
def the_core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Its CPU plugin gives the thread that compiles first another stack for signals, and unmaps it when the core goes.
    Where that happens on another thread, the next signal that Python handles, such as Ctrl-C, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class _Graph:
    """One ONNX file, compiled per batch and number of classes; the oldest of `_KEPT` goes first."""

    def __init__(self, content: bytes, rest: str, options: EngineOptions) -> None:
        import openvino

        self._content, self._rest = content, rest
        self._core = the_core()
        self._properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[rest],
            "PERFORMANCE_HINT": options.hint.upper(),
        }
        if options.threads is not None:
            self._properties["INFERENCE_NUM_THREADS"] = options.threads
        if options.cache is not None:
            self._properties["CACHE_DIR"] = str(cache_folder(options.cache, openvino.get_version()))
        self._compiled: OrderedDict[Shape, Any] = OrderedDict()
        self._lock = threading.Lock()

    def compiled(self, sizes: Shape) -> Any:
        """The graph for (batch,) or (batch, classes)."""
        with self._lock:
            if sizes in self._compiled:
                self._compiled.move_to_end(sizes)
                return self._compiled[sizes]
            compiled = self._compile(sizes)
            self._compiled[sizes] = compiled
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return compiled

    def _compile(self, sizes: Shape) -> Any:
        try:
            model = self._core.read_model(self._content, b"")
            shapes = {}
            for port in model.inputs:
                shape = port.partial_shape
                # prototypes and chunks lead with the classes, keys with what is open, everything else with the batch
                if port.any_name != "keys":
                    shape[0] = sizes[1] if port.any_name in ("prototypes", "chunks") else sizes[0]
                shapes[port.any_name] = shape
            model.reshape(shapes)
            quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
            compiled = self._core.compile_model(model, "CPU", self._properties)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot load the graph: {_first_line(error)}") from error
        # of the two graphs of an int8 bundle, one may have been left as it was
        wanted = "int8" if quantised else self._rest
        found = found_precision(execution_types(compiled))
        if found != wanted:
            raise EngineError(
                f"OpenVINO was asked for {wanted} and runs the graph in {found}; take another precision or engine."
            )
        return compiled


def execution_types(compiled: Any) -> dict[str, dict[str, int]]:
    """Kind of layer -> execution type, such as `brgconv_avx512_bf16` -> number of layers, from the runtime graph."""
    kinds: dict[str, Counter[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" not in info or "primitiveType" not in info:
            continue
        # the plugin ends the type of a kernel with the precision of its inputs, of which it knows several spellings
        kernel = f"{info['primitiveType'].astype(str).rsplit('_', 1)[0]}_{info['runtimePrecision'].astype(str)}"
        kinds.setdefault(info["layerType"].astype(str), Counter())[kernel] += 1
    return {kind: dict(counts) for kind, counts in sorted(kinds.items())}


def found_precision(types: dict[str, dict[str, int]]) -> str:
    """Precision of the convolutions of a graph: the one that all have; int8 where some layers run in it."""
    found: Counter[str] = Counter()
    for kernel, count in types.get("Convolution", {}).items():
        found[_FOUND.get(kernel.rsplit("_", 1)[1], kernel)] += count
    if found["int8"]:
        return "int8"
    return next(iter(found)) if len(found) == 1 else " and ".join(sorted(found)) or "unknown"


def cache_folder(folder: Path, version: str) -> Path:
    """The part of a cache folder that belongs to one version of OpenVINO: no version reads what another wrote.

    Raises:
        InputError: it cannot be made.
    """
    own = folder / plain_name(f"openvino-{version}")
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cache folder {folder} cannot be made: {error.strerror or error}.") from error
    return own


def _first_line(error: Exception) -> str:
    # OpenVINO leads with the places in its own sources; what went wrong comes last
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept)[:300] or type(error).__name__

"""The bare graphs of a bundle as models of Triton's own backends, for who prepares images and stacks keys elsewhere."""

from dataclasses import dataclass
from typing import Any

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.onnx import cpu_unavailable, lacks
from ntre_deploy.runtime.manifest import FileEntry
from ntre_deploy.runtime.onnxfile import check_self_contained
from ntre_deploy.runtime.stacked import CHUNK
from ntre_deploy.serving.triton.config import dynamic_batching, instance_group
from ntre_deploy.serving.triton.options import Options
from ntre_deploy.serving.triton.textformat import Enum, Message

ONNX, TENSORRT = "onnxruntime_onnx", "tensorrt_plan"
_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int32)": "TYPE_INT32",
}
# whose graphs take keys in 16 bits
_HALF = ("fp16", "bf16", "fp8")


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        kind: Triton's name of its type.
        dims: its shape, -1 where that is dynamic.
    """

    name: str
    kind: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A graph that becomes a model.

    Attributes:
        name: of the model.
        platform: `onnxruntime_onnx` or `tensorrt_plan`.
        file: its name in the version's folder, which Triton expects.
        entry: its file in the bundle.
        inputs, outputs: as the ONNX file has them, or as the format of bundles has them.
        most: images that a plan takes at once; 0 for an ONNX file, which knows no bound.
    """

    name: str
    platform: str
    file: str
    entry: FileEntry
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    most: int = 0


def find_graphs(bundle: Bundle, name: str) -> list[Graph]:
    """The graphs of a bundle that Triton's backends run: all ONNX files, and plans of TensorRT.

    Those of TensorRT for RTX are left out, as Triton has no backend for it.

    Args:
        name: what the models' names begin with.

    Raises:
        InputError: there are none, or one is damaged.
        EngineError: ONNX Runtime is missing, or cannot read one.
    """
    found = []
    for entry in bundle.manifest.files:
        if entry.role not in ("support", "query"):
            continue
        if entry.engine == "onnx" and lacks(entry.precision_found) is None:
            found.append(Graph(_name(name, entry), ONNX, "model.onnx", entry, *_ports(bundle.read(entry), entry.name)))
        elif entry.engine == "trt":
            most = entry.details.get("max_batch")
            most = most if type(most) is int and most > 0 else 1
            plan = ports_by_format(bundle, entry.role, entry.precision_asked)
            found.append(Graph(_name(name, entry, "trt"), TENSORRT, "model.plan", entry, *plan, most))
    if not found:
        raise InputError(f"Bundle {bundle.folder} has no graphs that Triton runs; export it with --precision fp32.")
    return found


def ports_by_format(bundle: Bundle, role: str, precision: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a graph as the format of bundles has them, for plans: reading those takes a GPU.

    Args:
        role: `support` or `query`.
        precision: that it was built in.
    """
    model, size = bundle.manifest.model, bundle.manifest.input.size
    height, width = model.feature_size
    image = Port("image", "TYPE_FP32", (-1, 3, size, size))
    if role == "support":
        return (image, Port("mask", "TYPE_FP32", (-1, 1, size, size))), (
            Port("prototype", "TYPE_FP32", (-1, model.prototype_channels)),
            Port("keys", "TYPE_FP32", (-1, model.key_channels, height * width)),
        )
    keys = "TYPE_FP16" if precision in _HALF else "TYPE_FP32"
    return (
        image,
        Port("prototypes", "TYPE_FP32", (-1, model.prototype_channels)),
        Port("keys", keys, (-1, CHUNK, model.key_channels)),
        Port("chunks", "TYPE_INT32", (-1, -1, -1)),
    ), (Port("logits", "TYPE_FP32", (-1, -1, 2, height, width)),)


def graph_config(graph: Graph, options: Options) -> Message:
    """The configuration of a graph's model.

    All arrays of the support graph begin with the batch, so that Triton can batch it.  Of the query graph only images
    and logits do: a query is one image or more against the same classes, and Triton leaves it as it is.
    """
    batched = graph.entry.role == "support"
    most = min(options.batch, graph.most) if graph.most else options.batch
    config: dict[str, Any] = {
        "name": graph.name,
        "platform": graph.platform,
        "max_batch_size": most if batched else 0,
        "input": [_port(port, batched) for port in graph.inputs],
        "output": [_port(port, batched) for port in graph.outputs],
        "instance_group": [_group(graph, options)],
        "version_policy": {"latest": {"num_versions": options.keep}},
    }
    if batched:
        sizes = [size for size in options.preferred if size <= most]
        config["dynamic_batching"] = {**dynamic_batching(options), "preferred_batch_size": sizes}
    return config


def _group(graph: Graph, options: Options) -> Message:
    group = dict(instance_group(options))
    if graph.platform == TENSORRT:
        group["kind"] = Enum("KIND_GPU")
    return group


def _port(port: Port, batched: bool) -> Message:
    return {"name": port.name, "data_type": Enum(port.kind), "dims": port.dims[1:] if batched else port.dims}


def _name(name: str, entry: FileEntry, engine: str = "") -> str:
    precision = "" if entry.precision_found == "fp32" else entry.precision_found
    return "_".join(part for part in (name, entry.role, engine, precision) if part)


def _ports(content: bytes, name: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    check_self_contained(content, name)
    if reason := cpu_unavailable():
        raise EngineError(f"--graphs reads the graphs' inputs with ONNX Runtime: {reason}.")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    # it is only looked at
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"{name} cannot be read by ONNX Runtime: {str(error).splitlines()[0]}") from error
    return _all(session.get_inputs(), name), _all(session.get_outputs(), name)


def _all(ports: Any, name: str) -> tuple[Port, ...]:
    found = []
    for port in ports:
        if port.type not in _TYPES:
            raise InputError(f"{name} has '{port.name}' of type {port.type}, which Triton's configuration cannot name.")
        dims = tuple(size if isinstance(size, int) and size > 0 else -1 for size in port.shape)
        found.append(Port(port.name, _TYPES[port.type], dims))
    return tuple(found)

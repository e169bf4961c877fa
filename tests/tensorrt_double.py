"""A `tensorrt` that has exactly the names of a recorded version, and computes with ONNX Runtime.

No TensorRT runs where there is no GPU, and its libraries are no package of a plain index.  What can be proven without
them: that the project uses no name which a version lacks, and that everything around the library (profiles, buffers,
streams, graphs, errors) is right.  A plan of the double is the ONNX file behind a JSON header; it executes as a host
function on a stream of the CUDA driver.  Nothing that it computes is a result of TensorRT.

`tensorrt_api.json` was read out of the bindings of each version: class -> name -> class that it returns.
"""

# the methods are named after the class and the name that they stand for
# ruff: noqa: N802

import ctypes
import enum
import json
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

RECORD = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int32)": ("INT32", np.int32),
}
_MAGIC = b"double of a plan\n"


class Thing:
    """An instance of a recorded class: names that the version lacks raise AttributeError, also when they are set."""

    def __init__(self, module: "Double", kind: str, **values: Any) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        self._module.check(self._kind, name)
        if name in self._values:
            return self._values[name]
        if behaviour := getattr(self._module, f"{self._kind}_{name}", None):
            return lambda *a, **k: behaviour(self, *a, **k)
        returned = self._module.record[self._kind][name]
        return lambda *a, **k: Thing(self._module, returned) if returned else None

    def __setattr__(self, name: str, value: Any) -> None:
        self._module.check(self._kind, name)
        self._values[name] = value

    def __bytes__(self) -> bytes:
        return bytes(self._values["content"])

    def __int__(self) -> int:
        return int(self._values["content"])


class Double(types.ModuleType):
    """The module; `used` collects every name of it that was touched, `fail` names the calls that give None or False."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__version__ = version
        self.record = RECORD[f"{name} {version}"]
        self.used: set[tuple[str, str]] = set()
        self.fail: dict[str, str] = {}
        self.calls: list[str] = []
        self.scratch_per_element = 3  # bytes that an execution needs for each element of its inputs
        self._functions: list[Any] = []  # what the driver may still call
        for kind, names in self.record.items():
            if isinstance(names, list):
                self.__dict__[kind] = _Enum(self, kind, names)
        severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)
        self.ILogger = type("ILogger", (), {"Severity": severity, "__init__": lambda self: None})
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
        self.Builder = lambda logger: Thing(self, "Builder", logger=logger)
        self.Runtime = lambda logger: Thing(self, "Runtime", logger=logger)
        self.OnnxParser = self._parser

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.__name__} {self.__version__} has no {name}")

    def check(self, kind: str, name: str) -> None:
        if name not in self.record[kind]:
            raise AttributeError(f"{self.__name__} {self.__version__}: {kind} has no {name}")
        self.used.add((kind, name))

    def _fails(self, call: str, logger: Any) -> bool:
        self.calls.append(call)
        if call in self.fail:
            logger.log(self.ILogger.Severity.ERROR, self.fail[call])
            return True
        return False

    # --- building

    def _parser(self, network: Thing, logger: Any) -> Thing:
        return Thing(self, "OnnxParser", network=network, logger=logger)

    def Builder_create_network(self, builder: Thing, flags: int = 0) -> Thing:
        assert flags == 1 << int(self.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Thing(self, "INetworkDefinition")

    def OnnxParser_parse(self, parser: Thing, content: bytes) -> bool:
        object.__getattribute__(parser, "_values")["network"]._values["content"] = content
        return not self._fails("parse", parser._values["logger"])

    def Builder_create_builder_config(self, builder: Thing) -> Thing:
        return Thing(self, "IBuilderConfig", profiles=[], logger=builder._values["logger"])

    def Builder_create_optimization_profile(self, builder: Thing) -> Thing:
        return Thing(self, "IOptimizationProfile", shapes={})

    def IOptimizationProfile_set_shape(self, profile: Thing, name: str, least: Any, best: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))
        profile._values["shapes"][name] = [list(least), list(best), list(most)]

    def IBuilderConfig_add_optimization_profile(self, config: Thing, profile: Thing) -> int:
        config._values["profiles"].append(profile._values["shapes"])
        return len(config._values["profiles"]) - 1

    def IBuilderConfig_set_compute_capability(self, config: Thing, capability: Any, index: int) -> bool:
        assert index < config._values["num_compute_capabilities"]
        return True

    def IBuilderConfig_create_timing_cache(self, config: Thing, content: bytes) -> Thing | None:
        if content.startswith(b"torn"):
            return None
        return Thing(self, "ITimingCache", content=content)

    def IBuilderConfig_set_timing_cache(self, config: Thing, cache: Thing, ignore: bool) -> bool:
        if cache._values["content"].startswith(b"another GPU"):
            return False
        config._values["cache"] = cache
        return True

    def IBuilderConfig_get_timing_cache(self, config: Thing) -> Thing | None:
        if "cache" not in config._values:
            return None
        return Thing(self, "ITimingCache", content=config._values["cache"]._values["content"] + b"timed;")

    def ITimingCache_serialize(self, cache: Thing) -> Thing:
        return Thing(self, "IHostMemory", content=cache._values["content"])

    def Builder_build_serialized_network(self, builder: Thing, network: Thing, config: Thing) -> Thing | None:
        monitor = config._values["progress_monitor"]
        monitor.phase_start("Building engine", None, 4)
        goes_on = all(monitor.step_complete("Building engine", step) for step in range(4))
        monitor.phase_finish("Building engine")
        if self._fails("build", builder._values["logger"]) or not goes_on:
            return None
        header = json.dumps({"profiles": config._values["profiles"]}).encode()
        return Thing(self, "IHostMemory", content=_MAGIC + header + b"\n" + network._values["content"])

    # --- loading

    def Runtime_deserialize_cuda_engine(self, runtime: Thing, plan: bytes) -> Thing | None:
        if self._fails("deserialise", runtime._values["logger"]):
            return None
        magic, header, content = plan.split(b"\n", 2)
        assert magic + b"\n" == _MAGIC
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        profiles = json.loads(header)["profiles"]
        names = [x.name for x in (*session.get_inputs(), *session.get_outputs())]
        return Thing(
            self,
            "ICudaEngine",
            num_io_tensors=len(names),
            num_optimization_profiles=len(profiles),
            names=names,
            profiles=profiles,
            session=session,
            content=content,
            logger=runtime._values["logger"],
        )

    def ICudaEngine_get_tensor_name(self, engine: Thing, index: int) -> str:
        return str(engine._values["names"][index])

    def ICudaEngine_get_tensor_dtype(self, engine: Thing, name: str) -> Any:
        session = engine._values["session"]
        (found,) = (x.type for x in (*session.get_inputs(), *session.get_outputs()) if x.name == name)
        return getattr(self.DataType, _TYPES[found][0])

    def ICudaEngine_get_tensor_mode(self, engine: Thing, name: str) -> Any:
        inputs = [x.name for x in engine._values["session"].get_inputs()]
        return self.TensorIOMode.INPUT if name in inputs else self.TensorIOMode.OUTPUT

    def ICudaEngine_get_tensor_profile_shape(self, engine: Thing, name: str, index: int) -> Any:
        return tuple(tuple(shape) for shape in engine._values["profiles"][index][name])

    def ICudaEngine_get_device_memory_size_for_profile_v2(self, engine: Thing, index: int) -> int:
        return 1000 * (index + 1)

    def ICudaEngine_create_engine_inspector(self, engine: Thing) -> Thing:
        return Thing(self, "EngineInspector", content=engine._values["content"])

    def EngineInspector_get_engine_information(self, inspector: Thing, form: Any) -> str:
        graph = onnx.load_model_from_string(inspector._values["content"]).graph
        kinds = {t.name: t.data_type for t in graph.initializer}
        layers = []
        for node in graph.node:
            if node.op_type == "Conv":
                half = kinds.get(node.input[1]) == onnx.TensorProto.FLOAT16
                text = "Channel major FP16 format where channel % 8 == 0" if half else "Row major linear FP32 format"
                inputs = [{"Name": node.input[0], "Format/Datatype": text}]
                layers.append({"Name": node.name, "LayerType": "CaskConvolution", "Inputs": inputs})
        return json.dumps({"Layers": layers})

    def IRuntimeConfig_create_runtime_cache(self, config: Thing) -> Thing:
        return Thing(self, "IRuntimeCache")

    def IRuntimeConfig_set_runtime_cache(self, config: Thing, cache: Thing) -> bool:
        return True

    def IRuntimeCache_serialize(self, cache: Thing) -> Thing:
        return Thing(self, "IHostMemory", content=b"compiled")

    def IRuntimeCache_deserialize(self, cache: Thing, content: bytes) -> bool:
        self.calls.append("use a cache")
        return content == b"compiled"

    # --- executing

    def ICudaEngine_create_execution_context(self, engine: Thing, strategy: Any = None, **options: Any) -> Thing | None:
        if self._fails("context", engine._values["logger"]):
            return None
        return Thing(
            self, "IExecutionContext", engine_=engine, shapes={}, addresses={}, logger=engine._values["logger"]
        )

    def IExecutionContext_set_optimization_profile_async(self, context: Thing, index: int, stream: int) -> bool:
        context._values["profile"] = context._values["engine_"]._values["profiles"][index]
        return True

    def IExecutionContext_is_stream_capturable(self, context: Thing, stream: int) -> bool:
        return True

    def IExecutionContext_update_device_memory_size_for_shapes(self, context: Thing) -> int:
        assert set(context._values["shapes"]) == set(context._values["profile"]), "every shape has to be set before"
        context._values["needs"] = self.scratch_per_element * sum(
            int(np.prod(s)) for s in context._values["shapes"].values()
        )
        return int(context._values["needs"])

    def IExecutionContext_set_device_memory(self, context: Thing, address: int, size: int) -> None:
        assert address > 0
        assert size >= context._values["needs"] > 0
        context._values["scratch"] = address

    def IExecutionContext_set_input_shape(self, context: Thing, name: str, shape: Any) -> bool:
        least, _, most = context._values["profile"][name]
        context._values["shapes"][name] = tuple(shape)
        return all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

    def IExecutionContext_get_tensor_shape(self, context: Thing, name: str) -> Any:
        shapes, session = context._values["shapes"], context._values["engine_"]._values["session"]
        sizes = iter((shapes["image"][0], shapes.get("prototypes", (0,))[0]))
        (output,) = (o for o in session.get_outputs() if o.name == name)
        return tuple(n if isinstance(n, int) else next(sizes) for n in output.shape)

    def IExecutionContext_set_tensor_address(self, context: Thing, name: str, address: int) -> bool:
        assert address % 256 == 0, "TensorRT reads and writes at multiples of 256 alone"
        context._values["addresses"][name] = address
        return bool(address)

    def IExecutionContext_execute_async_v3(self, context: Thing, stream: int) -> bool:
        if self._fails("execute", context._values["logger"]):
            return False
        session = context._values["engine_"]._values["session"]
        addresses = dict(context._values["addresses"])  # as they are when the work is queued
        types = {x.name: _TYPES[x.type][1] for x in session.get_inputs()}
        inputs, outputs = dict(context._values["shapes"]), [x.name for x in session.get_outputs()]

        def work(_: Any) -> None:
            fed = {name: _at(addresses[name], shape, types[name]) for name, shape in inputs.items()}
            for name, array in zip(outputs, session.run(outputs, fed), strict=True):
                _at(addresses[name], array.shape, np.float32)[...] = array

        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work)
        self._functions.append(function)
        # not through cuda-python, which frees its wrapper after the first call of a function that a graph calls again
        return int(ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc(ctypes.c_void_p(stream), function, None)) == 0


class _Enum:
    """The members of a recorded enumeration."""

    def __init__(self, module: Double, kind: str, names: list[str]) -> None:
        self._module, self._kind = module, kind
        self.__members__ = enum.IntEnum(kind, names, start=0).__members__

    def __getattr__(self, name: str) -> Any:
        self._module.check(self._kind, name)
        return self.__members__[name]


def _at(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)

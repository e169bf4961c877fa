"""Engines and what they run on, each with a small graph that it must really run there."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.gpu import on_jetson
from ntre_deploy.doctor.graph import ONNX, inputs, off_by
from ntre_deploy.doctor.probe import Step, first_line

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# runs graphs on a server of someone else's
_REMOTE = ("AzureExecutionProvider",)
_MAJORS = (10, 11)
_REINSTALL = "pip install --force-reinstall {}"
_RUNS = "runs a small graph"


def engine_steps() -> Iterator[Step]:
    """The engines of bundles."""
    from ntre_deploy.runtime.engines import ENGINE_NAMES

    for name in ENGINE_NAMES:
        yield Step("engines", f"engine {name}", partial(_engine, name))


def _engine(name: str) -> Iterator[Finding]:
    from ntre_deploy.runtime.engines import engine_unavailable

    reason = engine_unavailable(name)
    if reason is None:
        yield Finding("engines", f"engine {name}", "ok", "available")
        return
    mend = re.search(r" \((pip install '[^']+')[^)]*\)", reason)
    text = reason.replace(mend.group(0), "") if mend else reason
    yield Finding("engines", f"engine {name}", "absent", text, mend.group(1) if mend else "")


def onnxruntime_steps() -> Iterator[Step]:
    """ONNX Runtime's providers."""
    if importlib.util.find_spec("onnxruntime") is None:
        return
    names: list[str] = []
    yield Step("engines", "onnx providers", partial(_providers, names), _REINSTALL.format("onnxruntime"))
    for name in names:
        mend = "pip install 'onnxruntime-gpu[cuda,cudnn]'" if name == _CUDA else _REINSTALL.format("onnxruntime")
        yield Step("engines", name, partial(_provider, name), mend)


def _providers(names: list[str]) -> Iterator[Finding]:
    import onnxruntime

    names += [name for name in onnxruntime.get_available_providers() if name not in _REMOTE]
    yield Finding("engines", "onnx providers", "ok" if names else "problem", ", ".join(names) or "none")


def _provider(name: str) -> Iterator[Finding]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name != _CPU:
        # else nodes that the provider cannot run go to the CPU, and nothing is said
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(ONNX, options, providers=[name])
        if (used := session.get_providers()[0]) != name:
            wrong: str | None = f"ONNX Runtime falls back to {used}"
        else:
            (y,) = session.run(None, inputs())
            wrong = off_by(y)
    except Exception as error:
        wrong = first_line(error)
    if wrong is None:
        yield Finding("engines", name, "ok", _RUNS)
    elif name == _CPU:
        yield Finding("engines", name, "problem", wrong, _REINSTALL.format("onnxruntime"))
    elif name == _CUDA and _cuda_device():
        mend = "pip install 'onnxruntime-gpu[cuda,cudnn]' (CUDA and cuDNN of its version)"
        yield Finding("engines", name, "problem", wrong, mend)
    else:
        # compiled into the wheel for machines that have its hardware or its libraries
        yield Finding("engines", name, "absent", wrong)


def _cuda_device() -> bool:
    from ntre_deploy.doctor.gpu import gpu_steps

    return any(f.subject == "gpu" and f.status == "ok" for step in gpu_steps() for f in step.run())


def openvino_steps() -> Iterator[Step]:
    """OpenVINO's devices."""
    if importlib.util.find_spec("openvino") is None:
        return
    names: list[str] = []
    yield Step("engines", "openvino devices", partial(_devices, names), _REINSTALL.format("openvino"))
    for name in names:
        yield Step("engines", f"openvino {name}", partial(_device, name), _REINSTALL.format("openvino"))


def _devices(names: list[str]) -> Iterator[Finding]:
    import openvino

    names += openvino.Core().available_devices
    yield Finding("engines", "openvino devices", "ok" if names else "problem", ", ".join(names) or "none")


def _device(name: str) -> Iterator[Finding]:
    import openvino

    subject = f"openvino {name}"
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(ONNX, b""), name, {"INFERENCE_PRECISION_HINT": "f32"})
        wrong = off_by(compiled(inputs())[0])
    except Exception as error:
        wrong = first_line(error)
    if wrong is None:
        note = "" if name == "CPU" else "; engines of bundles use the CPU"
        yield Finding("engines", subject, "ok", f"{_RUNS}{note}")
    else:
        yield Finding("engines", subject, "problem" if name == "CPU" else "warning", wrong, "update its driver")


def tensorrt_steps() -> Iterator[Step]:
    """TensorRT and TensorRT for RTX: whether they import, and whether they can build here."""
    for module in ("tensorrt", "tensorrt_rtx"):
        if importlib.util.find_spec(module) is not None:
            yield Step("engines", f"{module} builder", partial(_tensorrt, module), _tensorrt_mend(module))


def _tensorrt_mend(module: str) -> str:
    if on_jetson():
        return "sudo apt install tensorrt python3-libnvinfer"
    return _REINSTALL.format("tensorrt-rtx" if module == "tensorrt_rtx" else "tensorrt (from NVIDIA's package index)")


def _tensorrt(module: str) -> Iterator[Finding]:
    subject = f"{module} builder"
    try:
        trt: Any = importlib.import_module(module)
        number = str(trt.__version__)
    # the libraries of the package on a plain index are placeholders; its bindings fail in several ways
    except Exception as error:
        text = f"is installed without its libraries: {first_line(error)}"
        yield Finding("engines", subject, "problem", text, _tensorrt_mend(module))
        return
    major = int(number.partition(".")[0])
    if module == "tensorrt" and major not in _MAJORS:
        text = f"{number}; this version of ntre knows TensorRT {' and '.join(map(str, _MAJORS))}"
        yield Finding("engines", subject, "warning", text, "pip install 'ntre_deploy[trt]'")
        return
    try:
        works = trt.Builder(trt.Logger(trt.Logger.ERROR)) is not None
    except Exception:
        works = False
    text = f"{number} (major {major})"
    if works:
        yield Finding("engines", subject, "ok", f"{text}, has a builder")
    else:
        yield Finding("engines", subject, "absent", f"{text} imports, but there is no GPU that it can use")

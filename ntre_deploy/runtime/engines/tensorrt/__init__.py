"""TensorRT and TensorRT for RTX: plans that `ntre export` has built, executed through CUDA.

`api.py` is the one file that knows both libraries, `plan.py` one deserialised engine, `lane.py` its execution on a
stream, `engine.py` what the runtime sees.
"""

import warnings

from ntre_deploy.errors import EngineError, InputError, NtreWarning
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.engines.tensorrt import api
from ntre_deploy.runtime.engines.tensorrt.api import ENGINES
from ntre_deploy.runtime.engines.tensorrt.engine import TensorRtEngine
from ntre_deploy.runtime.engines.tensorrt.environment import differences, rebuild_command

# best first, by what the hardware should do: no order among them was measured on a GPU yet
PRECISIONS = ("int8", "fp8", "fp16", "bf16", "fp32")


def unavailable(engine: str) -> str | None:
    """Why `trt` or `trt-rtx` cannot run here, or None."""
    return api.unavailable(engine) or cuda.unavailable()


def open_plans(bundle: Bundle, precision: str, options: EngineOptions, *, engine: str) -> TensorRtEngine:
    """The plans of a bundle on the first GPU.

    Args:
        engine: `trt` or `trt-rtx`.

    Raises:
        InputError: the bundle has no such plans, or one was changed: that is seen before a byte is deserialised.
        EngineError: the library or a GPU is missing, or a plan was built for another one.
    """
    library = api.load(engine)
    device = cuda.open_device(index=options.device)
    contents: dict[str, bytes] = {}
    trusted = False
    try:
        for role in ("support", "query"):
            entry = bundle.entry(role, engine, precision)
            if entry is None:
                raise InputError(
                    f"{bundle.folder} has no {role} engine of {engine} in {precision}; "
                    f"build it: {rebuild_command(str(bundle.folder), engine, precision)}"
                )
            if found := differences(entry.details, engine, library, device.compute_capability):
                command = rebuild_command(str(bundle.folder), engine, precision, device.compute_capability)
                raise EngineError(
                    f"{entry.name} cannot run here: {'; '.join(found)}. Build it on this machine: {command}"
                )
            built_on = entry.details.get("device")
            if role == "query" and isinstance(built_on, str) and built_on != device.name:
                command = rebuild_command(str(bundle.folder), engine, precision)
                warnings.warn(
                    f"{entry.name} was built on {built_on} and this is {device.name}: it runs, with the other's choice "
                    f"of kernels; {command} makes this one's.",
                    NtreWarning,
                    stacklevel=2,
                )
            contents[role] = bundle.read(entry)
            trusted = trusted or entry.details.get("version_compatible") is True
    except Exception:
        device.close()
        raise
    return TensorRtEngine(
        library,
        device,
        precision,
        contents,
        trusted_host_code=trusted,
        cache=options.cache,
        device_images=options.device_images,
    )


__all__ = ["ENGINES", "PRECISIONS", "TensorRtEngine", "open_plans", "rebuild_command", "unavailable"]

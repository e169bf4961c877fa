"""The plan files of a bundle: built or taken from the cache, checked, named by what they are."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import EngineError
from ntre_deploy.files import sha256
from ntre_deploy.plans.builder import Built, build, check_precision
from ntre_deploy.plans.cache import cached
from ntre_deploy.plans.options import TensorRtOptions, profiles
from ntre_deploy.plans.turing import CAPABILITY, without_fp32_products
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.engines.tensorrt import TensorRtEngine, api
from ntre_deploy.runtime.engines.tensorrt.environment import differences, system
from ntre_deploy.runtime.engines.tensorrt.layers import UNQUANTISED
from ntre_deploy.runtime.manifest import FileEntry, ModelEntry

Contents = dict[str, bytes]


@dataclass(frozen=True)
class Request:
    """What plans are built for.

    Attributes:
        engine: `trt` or `trt-rtx`.
        precision: of the ONNX files.
        targets: compute capabilities, from `options.targets`.
        size: side of the input.
        model: the network behind the graphs.
    """

    engine: str
    precision: str
    targets: tuple[str, ...]
    size: int
    model: ModelEntry


def plan_name(role: str, engine: str, precision: str, targets: tuple[str, ...]) -> str:
    """Such as `query.trt-fp16.sm_86.plan`; several targets are joined by a plus sign."""
    return f"{role}.{engine}-{precision}.sm_{'+'.join(t.replace('.', '') for t in targets)}.plan"


def write_plans(
    folder: Path,
    contents: Mapping[str, bytes],
    request: Request,
    options: TensorRtOptions,
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[list[FileEntry], TensorRtEngine | None]:
    """Write the plans of both graphs into a bundle's folder.

    Args:
        contents: ONNX files by role.

    Returns:
        The manifest's entries, and the engine on them where this machine can run it, for verification.

    Raises:
        GateError: a plan came out in another precision than that of its ONNX file.
        EngineError, InputError: see `build` and `cached`.
    """
    library = api.load(request.engine)
    # the whole fp32 graph as sums would be too slow to be of use, and its build says what is missing
    as_sums = library.ahead_of_time and CAPABILITY in request.targets and request.precision == "fp16"
    # what is not quantised stays as the fp32 file has it: beside int8, the mantissa of fp16 is enough for it
    tf32 = request.precision == "int8"
    entries, plans = [], {}
    for role, content in contents.items():
        what = f"{request.engine} {request.precision} {role}"
        shapes = profiles(
            request.engine,
            role,
            request.size,
            options,
            (request.model.prototype_channels, request.model.key_channels),
            request.model.feature_size[0] * request.model.feature_size[1],
        )
        facts: dict[str, Any] = {
            "library": library.module.__name__,
            "version": library.version,
            "compute_capabilities": list(request.targets),
            **({} if library.ahead_of_time else _device()),
            **system(),
            **options.describe(),
            "tf32": tf32,
            "fp32_products": "sums" if as_sums else "products",
        }
        source = without_fp32_products(content) if as_sums else content

        # quantisation may leave one of the two graphs as it was
        asked = request.precision
        if b"DequantizeLinear" not in content:
            asked = UNQUANTISED.get(asked, asked)

        def make(
            timings: bytes, source: bytes = source, shapes: Any = shapes, what: str = what, asked: str = asked
        ) -> Built:
            built = build(
                library,
                source,
                shapes,
                request.targets,
                options,
                what=what,
                tf32=tf32,
                timing_cache=timings,
                progress=progress,
            )
            check_precision(built, asked, what)
            return built

        key = {"onnx_sha256": hashlib.sha256(content).hexdigest(), "profiles": shapes, **facts}
        progress(f"building {what}")
        built, was_there = cached(options.cache, key, make, progress)
        check_precision(built, asked, what)
        name = plan_name(role, request.engine, request.precision, request.targets)
        (folder / name).write_bytes(built.plan)
        plans[role] = built.plan
        details = {
            **facts,
            "onnx_sha256": key["onnx_sha256"],
            "kernels": built.kernels,
            "found_by": built.found_by,
            "scratch_bytes": built.scratch,
            "profiles": shapes,
            "from_cache": was_there,
        }
        size, digest = len(built.plan), sha256(folder / name)
        entries.append(FileEntry(name, role, request.engine, request.precision, built.precision, size, digest, details))
    engine, reason = _try(library, request.precision, plans, entries)
    for entry in entries:
        entry.details["run_here"] = reason or "yes"
    return entries, engine


def _device() -> dict[str, Any]:
    """The GPU here: kernels are chosen by its timings, and another of the same compute capability has others."""
    device = cuda.open_device()
    try:
        with device.active():
            return {"device": device.name, "device_memory": device.memory()[1]}
    finally:
        device.close()


def _try(
    library: api.Library, precision: str, plans: Contents, entries: list[FileEntry]
) -> tuple[TensorRtEngine | None, str]:
    """The engine on the plans, or why it cannot run on this machine."""
    try:
        device = cuda.open_device()
    except EngineError as error:
        return None, str(error).rstrip(".")
    if found := differences(entries[0].details, library.engine, library, device.compute_capability):
        device.close()
        return None, "; ".join(found)
    trusted = entries[0].details["version_compatible"] is True
    return TensorRtEngine(library, device, precision, plans, trusted_host_code=trusted), ""

"""What a user may choose of a TensorRT build, and the optimisation profiles that follow from it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import EngineError, InputError, one_of
from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.engines.tensorrt import api
from ntre_deploy.runtime.engines.tensorrt.environment import HARDWARE_LEVELS
from ntre_deploy.runtime.stacked import CHUNK, padded

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
# the first compute capability whose tensor cores multiply these: Ampere, and Ada before Hopper and Blackwell
_LEAST = {"bf16": (8, 0), "fp8": (8, 9)}
EFFORTS = range(6)
# for Turing, graphs are rewritten (see `turing.py`), which other GPUs should not have to pay for
_LEAST_DEFAULT = (8, 0)
# key columns that kernels are tuned for: a usual object's
_USUAL_KEYS = 512
# that may be given at once: memory grows with them, and 40 shots of a usual object are enough for what is usual
_MOST_CHUNKS = 640

Shape = tuple[int, ...]
# input -> (least, best, most)
Profile = dict[str, tuple[Shape, Shape, Shape]]


def default_cache() -> Path:
    """Where built engines are kept: `ntre_deploy/engines` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ntre_deploy" / "engines"


@dataclass(frozen=True)
class TensorRtOptions:
    """How plans are built; the manifest records all of it.

    Attributes:
        compute_capabilities: to build for, such as `8.6`; empty takes the GPU here, and TensorRT for RTX on a machine
            without one takes all from 8.0 on.  TensorRT builds for the GPU here alone.
        max_batch, max_classes, max_shots: the largest query that the plans take at once.
        workspace_mib: memory that a build may use; None leaves it to the library.
        effort: of the optimiser, 0 (fast build) to 5; None is the library's own.
        hardware: `none`, `ampere-plus` or `same-compute-capability` (TensorRT): runs on other GPUs, slower.
        version_compatible: runs in later versions of the same major one (TensorRT), with code for the host in the plan.
        cache: folder of plans that were built before; None keeps none.

    Raises:
        InputError: a value outside its range.
    """

    compute_capabilities: tuple[str, ...] = ()
    max_batch: int = 4
    max_classes: int = 10
    max_shots: int = 5
    workspace_mib: int | None = None
    effort: int | None = None
    hardware: str = "none"
    version_compatible: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_classes", "max_shots", "workspace_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_mib', '').replace('_', '-')} is {value}; at least 1 is needed.")
        if self.effort is not None and self.effort not in EFFORTS:
            raise InputError(f"--effort is {self.effort}; it goes from {EFFORTS[0]} to {EFFORTS[-1]}.")
        one_of(self.hardware, HARDWARE_LEVELS, "Hardware compatibility")

    def describe(self) -> dict[str, Any]:
        """What decides about a plan besides its target, as JSON values."""
        return {
            "max_batch": self.max_batch,
            "max_classes": self.max_classes,
            "max_shots": self.max_shots,
            "workspace_mib": self.workspace_mib,
            "effort": self.effort,
            "hardware_compatibility": self.hardware,
            "version_compatible": self.version_compatible,
        }


def targets(engine: str, precision: str, options: TensorRtOptions) -> tuple[str, ...]:
    """Compute capabilities that an engine is going to be built for.

    Raises:
        InputError: one that is unknown or lacks the precision, or an option that the engine does not have.
        EngineError: the library is missing, or TensorRT has no GPU to build on.
    """
    asked = tuple(dict.fromkeys(options.compute_capabilities))
    library = api.load(engine)
    if library.ahead_of_time:
        if options.hardware != "none" or options.version_compatible:
            raise InputError(
                f"{library.title} has no hardware- or version-compatible engines; name several GPUs with --sm instead."
            )
        known = library.compute_capabilities()
        for value in asked:
            one_of(value, known, f"Compute capability of {library.title} {library.version}")
        if named := asked or _found(known):
            _check_capable(precision, named)
            return named
        least = max(_LEAST_DEFAULT, _LEAST.get(precision, _LEAST_DEFAULT))
        return tuple(c for c in known if _number(c) >= least)
    try:
        here = _here()
    except EngineError as error:
        raise EngineError(
            f"{library.title} builds on the GPU that will run the engine, and here is none: {str(error).rstrip('.')}. "
            "Export on that machine, or build with --engine trt-rtx, which needs no GPU."
        ) from error
    if asked and asked != (here,):
        raise InputError(
            f"TensorRT builds for the GPU here, which has compute capability {here}, not for {', '.join(asked)}; "
            "leave --sm out."
        )
    _check_capable(precision, (here,))
    if precision == "fp8" and options.hardware == "ampere-plus":
        raise InputError(
            "fp8 needs compute capability 8.9, and --hardware ampere-plus is for GPUs from 8.0 on; leave it out, or "
            "take --precision bf16."
        )
    return (here,)


def _check_capable(precision: str, capabilities: tuple[str, ...]) -> None:
    least = _LEAST.get(precision, (0, 0))
    if older := [c for c in capabilities if _number(c) < least]:
        others = " or ".join(p for p in ("fp16", "bf16") if _number(older[0]) >= _LEAST.get(p, (0, 0)))
        raise InputError(
            f"{precision} needs compute capability {least[0]}.{least[1]} or later, and {' and '.join(older)} "
            f"{'is' if len(older) == 1 else 'are'} older; take --precision {others} there."
        )


def profiles(
    engine: str, role: str, size: int, options: TensorRtOptions, channels: tuple[int, int], positions: int
) -> list[Profile]:
    """Optimisation profiles of a graph, the narrow one first: one image is what cameras send.

    TensorRT tunes its kernels for each.  TensorRT for RTX fits them to the shapes that occur when it runs, and a second
    profile would only hold the weights again.

    Args:
        role: `support` or `query`.
        size: side of the input.
        channels: of prototypes and keys.
        positions: of the feature map, the most keys that a shot can have.
    """
    one, most = (1, 3, size, size), (options.max_batch, 3, size, size)
    if role == "support":
        mask, masks = (1, 1, size, size), (options.max_batch, 1, size, size)
        return [{"image": (one, one, most), "mask": (mask, mask, masks)}]
    classes, shots, (c, d) = options.max_classes, options.max_shots, channels
    of_a_shot = -(-positions // CHUNK)
    usual = min(_USUAL_KEYS // CHUNK, of_a_shot)
    # one class with all its shots at least; more classes go in lots where they have more
    chunks = min(classes * shots * of_a_shot, max(shots * of_a_shot, _MOST_CHUNKS))
    supports: Profile = {
        "prototypes": ((1, c), (1, c), (classes, c)),
        "keys": ((1, CHUNK, d), (usual, CHUNK, d), (chunks, CHUNK, d)),
        "chunks": ((1, 1, 1), (1, 1, usual), (classes, shots, padded(of_a_shot))),
    }
    if engine == "trt-rtx" or options.max_batch == 1:
        return [{"image": (one, one, most), **supports}]
    return [{"image": (one, one, one), **supports}, {"image": (one, most, most), **supports}]


def _here() -> str:
    device = cuda.open_device()
    try:
        return device.compute_capability
    finally:
        device.close()


def _found(known: tuple[str, ...]) -> tuple[str, ...]:
    try:
        here = _here()
    except EngineError:
        return ()
    if here not in known:
        raise EngineError(
            f"TensorRT for RTX does not know the GPU here (compute capability {here}); it knows {', '.join(known)}. "
            "Name another with --sm, or take --engine trt."
        )
    return (here,)


def _number(capability: str) -> tuple[int, int]:
    # a text that is none is below every other
    return cuda.capability_pair(capability) or (0, 0)

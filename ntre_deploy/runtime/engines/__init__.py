"""Engines run a bundle's graphs; one file or folder each, all behind the two calls of `Engine`.

To add one: write its file, add it to `_ENGINES`, best first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError, did_you_mean, one_of
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cpu import int8_unwise
from ntre_deploy.runtime.engines import onnx, onnx_cuda, openvino, tensorrt
from ntre_deploy.runtime.engines.options import EngineOptions
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Engine(Protocol):
    """Something that computes the two deploy graphs."""

    name: str
    precision: str

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """Image [B, 3, H, W], mask [B, 1, H, W] -> prototypes [B, C], keys [B, D, h*w] (zero outside the mask)."""
        ...

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """Image [B, 3, H, W] against N classes -> logits [B, N, 2, h, w]."""
        ...

    def clone(self) -> "Engine":
        """An engine for another thread that shares this one's weights."""
        ...


@dataclass(frozen=True)
class Choice:
    """An engine that was opened, and why it and not a better one."""

    engine: Engine
    reason: str


@dataclass(frozen=True)
class _Kind:
    files: str  # engine name of its files in the manifest
    precisions: tuple[str, ...]  # best first, for `auto`
    unavailable: Callable[[], str | None]  # why it cannot run here; None when it can
    open: Callable[[Bundle, str, EngineOptions], Engine]
    lacks: Callable[[str], str | None] = lambda precision: None  # why this machine cannot run a precision
    unwise: Callable[[str], str | None] = lambda precision: None  # why `auto` should rather take another one
    gpu: bool = False


_ENGINES: dict[str, _Kind] = {
    **{
        name: _Kind(
            name,
            tensorrt.PRECISIONS,
            partial(tensorrt.unavailable, name),
            partial(tensorrt.open_plans, engine=name),
            gpu=True,
        )
        for name in tensorrt.ENGINES
    },
    "onnx-cuda": _Kind("onnx", ("fp16", "fp32"), onnx_cuda.unavailable, onnx_cuda.open_cuda, onnx_cuda.lacks, gpu=True),
    openvino.NAME: _Kind(
        openvino.NAME,
        ("int8", "bf16", "fp32"),
        openvino.unavailable,
        openvino.open_cpu,
        openvino.lacks,
        int8_unwise,
    ),
    # fp16 runs on the CPU too, but only through casts to fp32
    "onnx-cpu": _Kind("onnx", ("int8", "fp32", "fp16"), onnx.cpu_unavailable, onnx.open_cpu, onnx.lacks, int8_unwise),
}
ENGINE_NAMES = tuple(_ENGINES)
_ALIASES = {"onnx": ("onnx-cuda", "onnx-cpu")}


def available_engines() -> dict[str, str | None]:
    """Every engine by name, with the reason why this machine cannot run it, or None when it can."""
    return {name: kind.unavailable() for name, kind in _ENGINES.items()}


def engine_unavailable(name: str) -> str | None:
    """Why this machine cannot run an engine, or None."""
    return _ENGINES[name].unavailable()


def runs_on_gpu(name: str) -> bool:
    """Whether an engine computes on an NVIDIA GPU."""
    return _ENGINES[name].gpu


def engine_best(name: str) -> str | None:
    """The precision without calibration that an engine runs best on this machine; None where it has none here."""
    kind = _ENGINES[name]
    return next(
        (p for p in kind.precisions if p not in ("int8", "fp8") and not kind.lacks(p) and not kind.unwise(p)), None
    )


def engine_precisions(bundle: Bundle, name: str) -> list[str]:
    """Precisions in which a bundle holds the files of an engine, in the manifest's order."""
    return bundle.precisions(_ENGINES[name].files)


def precision_unavailable(name: str, precision: str) -> str | None:
    """Why this machine cannot run an engine in a precision, or None; whether the engine is there is not looked at."""
    return _ENGINES[name].lacks(precision)


def keep_supports(engine: Engine, supports: StackedSupports) -> StackedSupports:
    """Stacked supports as and where the engine reads them fastest, such as in 16 bits in a GPU's memory."""
    keep: Callable[[StackedSupports], StackedSupports] | None = getattr(engine, "keep", None)
    return supports if keep is None else keep(supports)


def watch_transfers(engine: Engine) -> None:
    """Let an engine with memory of its own note `transfer_ms` of each query: milliseconds to the device and back."""
    watch: Callable[[], None] | None = getattr(engine, "watch_transfers", None)
    if watch is not None:
        watch()


def label_on_device(
    engine: Engine, image: Pixels, spec: InputSpec, supports: StackedSupports
) -> tuple[Pixels, Float] | None:
    """Labels of an image whose pixels go to the engine's device as they are; None where an engine does not do that.

    Args:
        image: uint8 RGB [H, W, 3].
        supports: of N classes, on the host or from `keep_supports`.

    Returns:
        uint8 labels [H, W] and float32 logits [N, 2, h, w], both of the host.

    Raises:
        EngineError: it failed.
    """
    whole: Callable[..., tuple[Pixels, Float] | None] | None = getattr(engine, "label", None)
    return None if whole is None else whole(image, spec, supports)


def open_engine(
    bundle: Bundle,
    name: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    *,
    hint: str = "latency",
    cache: Path | None = None,
    device_images: bool = False,
    device: int = 0,
) -> Choice:
    """Open an engine of a bundle.

    Args:
        name: `auto` or `onnx` take the best that runs; any other name gets exactly that engine or an error.
        precision: such as `fp32`; None takes the engine's best in the bundle.
        threads, hint, cache, device_images, device: see `EngineOptions`.

    Raises:
        InputError: an unknown name or hint, or a precision that the bundle does not hold.
        EngineError: no engine can run, or the one asked for cannot.
    """
    one_of(name, ["auto", *_ALIASES, *_ENGINES], "Engine")
    options = EngineOptions(threads, hint, cache, device_images, device)
    candidates = _in_bundle(bundle) if name == "auto" else list(_ALIASES.get(name, (name,)))
    in_any = list(dict.fromkeys(p for c in candidates for p in bundle.precisions(_ENGINES[c].files)))
    if precision is not None and precision not in in_any:
        known = any(precision in kind.precisions for kind in _ENGINES.values())
        hint = " `ntre export` makes it with --precision." if known else did_you_mean(precision, in_any)
        raise InputError(f"{bundle.folder} holds {', '.join(in_any) or 'no graphs'} for {name}, not {precision}.{hint}")
    passed: list[str] = []
    for candidate in candidates:
        kind = _ENGINES[candidate]
        held = bundle.precisions(kind.files)
        if not held:
            passed.append(f"{candidate}: the bundle holds no {kind.files} files")
            continue
        if precision is not None and precision not in held:
            passed.append(f"{candidate}: the bundle does not hold {precision} for it")
            continue
        if reason := kind.unavailable():
            if len(candidates) == 1:
                raise EngineError(f"Engine {candidate} cannot run here: {reason}; `ntre doctor` tells more.")
            passed.append(f"{candidate}: {reason}")
            continue
        chosen, left = (precision, []) if precision is not None else _best(candidate, held)
        if chosen is None:
            passed += left
            continue
        try:
            engine = kind.open(bundle, chosen, options)
        except EngineError as error:
            if len(candidates) == 1:
                raise
            passed.append(f"{candidate}: {error}")
            continue
        # what would mend the others is the doctor's to tell
        over = [p.partition(" (")[0] for p in (*passed, *left)]
        because = f"; passed over {'; '.join(over)}" if over else ""
        return Choice(engine, f"{candidate} {chosen}{because}{_faster(bundle) if name == 'auto' else ''}")
    raise EngineError(f"No engine can run {bundle.folder}: {'; '.join(passed)}. `ntre doctor` tells what is missing.")


def _in_bundle(bundle: Bundle) -> list[str]:
    # built for one machine each, so a bundle without plans is no reason to speak of them
    return [name for name, kind in _ENGINES.items() if name not in tensorrt.ENGINES or bundle.precisions(kind.files)]


def _faster(bundle: Bundle) -> str:
    """What could be built here and run faster than what the bundle holds; empty where nothing can."""
    if any(bundle.precisions(name) for name in tensorrt.ENGINES):
        return ""
    held = bundle.precisions("onnx")
    best = next((p for p in ("fp16", "fp32") if p in held), None)
    for name in tensorrt.ENGINES:
        if best is not None and _ENGINES[name].unavailable() is None:
            command = tensorrt.rebuild_command(str(bundle.folder), name, best)
            return f"; a faster engine can be built here: {command}"
    return ""


def _best(name: str, held: list[str]) -> tuple[str | None, list[str]]:
    """The best precision that this machine has, and what was passed over for which reason."""
    kind = _ENGINES[name]
    order = [p for p in kind.precisions if p in held] or held
    lacking = {p: reason for p in order if (reason := kind.lacks(p))}
    runs = [p for p in order if p not in lacking]
    unwise = {p: reason for p in runs if (reason := kind.unwise(p))}
    # what is unwise is better than nothing
    best = next((p for p in runs if p not in unwise), runs[0] if runs else None)
    over = order if best is None else order[: order.index(best)]
    return best, [f"{name} {p}: {reason}" for p in over if (reason := lacking.get(p) or unwise.get(p))]


__all__ = [
    "ENGINE_NAMES",
    "Choice",
    "Engine",
    "EngineOptions",
    "available_engines",
    "engine_best",
    "engine_precisions",
    "engine_unavailable",
    "keep_supports",
    "label_on_device",
    "open_engine",
    "precision_unavailable",
    "runs_on_gpu",
    "watch_transfers",
]

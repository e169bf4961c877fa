"""What is measured: how a system looks to the bench, and the engines of a bundle; PyTorch's own are in `pytorch.py`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError, did_you_mean
from ntre_deploy.files import sha256
from ntre_deploy.model.registry import MODELS, asset_file, checkpoint_file
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.calibration import NEUTRAL, Calibration
from ntre_deploy.runtime.engines import (
    ENGINE_NAMES,
    Engine,
    available_engines,
    engine_precisions,
    label_on_device,
    open_engine,
    precision_unavailable,
    runs_on_gpu,
    watch_transfers,
)
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import calibrations

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Shots = Sequence[tuple[Pixels, Pixels]]

# behind the name of an engine, where images are scaled and label maps made on its device
ON_DEVICE = " device-images"


class System(Protocol):
    """One way to run the network; pre- and post-processing are the same for all."""

    @property
    def name(self) -> str:
        """Of the engine, or of PyTorch's way."""
        ...

    @property
    def precision(self) -> str:
        """Such as `fp32`."""
        ...

    @property
    def device(self) -> str:
        """`cpu` or `gpu`: times of one are not compared with those of the other."""
        ...

    def prepare(self, shots: Shots) -> Any:
        """What a query needs of K supports, images [H, W, 3] and masks [H, W]; not part of a query's time."""
        ...

    def prepare_ways(self, classes: Sequence[Shots], calibrate: bool) -> "Ways":
        """What a query needs of the supports of N classes, and how their margins are compared; arrays as in `Shots`."""
        ...

    def compute(self, pixels: Float, state: Any) -> Float:
        """Prepared query [3, H, W] and the result of `prepare` -> logits [1, 2, h, w]; of N classes [N, 2, h, w]."""
        ...


class Ways(NamedTuple):
    """N classes, ready for queries: a state for `System.compute`, and the calibration of each."""

    state: Any
    calibrations: list[Calibration]


@dataclass(frozen=True)
class Facts:
    """What is known of an engine before it runs.

    Attributes:
        asked: precision that the export was asked for.
        evidence: where the precision that was found is read from.
        files: names and bytes of the graphs that it reads.
    """

    asked: str = ""
    evidence: str = ""
    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cached:
    """An engine behind a `Segmenter`: supports are encoded once.

    Attributes:
        on_device: images are scaled and label maps made on the device, see `EngineOptions.device_images`.
        throughput: opens the engine for several clones at once, where that takes another one.
        device: `cpu` or `gpu`.
    """

    segmenter: Segmenter
    name: str
    precision: str
    facts: Facts = field(default_factory=Facts)
    throughput: Callable[[], Segmenter] | None = None
    device: str = "cpu"
    on_device: bool = False

    def prepare(self, shots: Shots) -> Any:
        """Encode the supports; shapes as in `System`."""
        return self.segmenter.stack(self.segmenter.encode_episode(shots))

    def prepare_ways(self, classes: Sequence[Shots], calibrate: bool) -> Ways:
        """Encode the supports of each class; see `System.prepare_ways`."""
        names = [f"class {n}" for n in range(1, len(classes) + 1)]
        memories = self.segmenter.encode_episodes(classes, names, calibrate=calibrate)
        return Ways(self.segmenter.stack(memories), calibrations(memories))

    def compute(self, pixels: Float, state: Any) -> Float:
        """The query graph alone; shapes as in `System`."""
        logits: Float = self.segmenter.engine.query(pixels[None], state)[0]
        return logits

    def whole(self, image: Pixels, ways: "Ways") -> tuple[Float, Pixels] | None:
        """Logits [N, 2, h, w] and labels [H, W] of an image [H, W, 3], where everything is done on the device.

        None where this is not asked for, or cannot be: the device's label map knows no calibration.
        """
        if not self.on_device or any(c != NEUTRAL for c in ways.calibrations):
            return None
        found = label_on_device(self.segmenter.engine, image, self.segmenter.spec, ways.state)
        return None if found is None else (found[1], found[0])

    def transfers(self) -> tuple[float, float] | None:
        """Milliseconds that the last query spent on the way to the device and back.

        None of an engine that computes in the host's memory.
        """
        told: tuple[float, float] | None = getattr(self.segmenter.engine, "transfer_ms", None)
        return told

    def many(self) -> Segmenter:
        """A segmenter to clone for several threads."""
        return self.segmenter if self.throughput is None else self.throughput()


def find_checkpoint(bundle: Bundle, given: Path | None) -> Path:
    """The checkpoint that a bundle was made from: the one given, or one with the right SHA-256 beside it or by name.

    Raises:
        InputError: there is none, or the one given is another.
    """
    wanted = bundle.manifest.model.checkpoint_sha256
    if given is not None:
        given = checkpoint_file(given)
        if sha256(given) != wanted:
            raise InputError(f"Checkpoint {given} is not the one that {bundle.folder} was exported from (its SHA-256).")
        return given
    if (found := found_beside(bundle)) is not None:
        return found
    raise InputError(
        f"The checkpoint of {bundle.folder} is not beside it; parity is measured against it: pass --checkpoint FILE."
    )


def found_beside(bundle: Bundle) -> Path | None:
    """The checkpoint that a bundle was made from, by its SHA-256, beside it or a named one; None without."""
    wanted = bundle.manifest.model.checkpoint_sha256
    beside = bundle.folder.absolute().parent
    for path in sorted(beside.glob("*.safetensors")):
        if path.is_file() and os.access(path, os.R_OK) and sha256(path) == wanted:
            return path
    for name in MODELS:
        path = asset_file(name)
        if sha256(path) == wanted:
            return path
    return None


# an engine, or `auto` and `onnx` as a segmenter takes them, or `all`; and a precision, or None for all that there are
Wanted = tuple[str, str | None]
WANTED = ("all", "auto", "onnx", *ENGINE_NAMES)


def open_engines(
    bundle: Bundle, threads: int, engines: Sequence[Wanted] = (), *, device_images: bool = False
) -> tuple[list[System], dict[str, str]]:
    """The engines of a bundle that this machine can run, and why it cannot run the others.

    Args:
        engines: only these; one that is named and cannot run is an error.
        device_images: open each engine of a GPU once more, with images and label maps on it.

    Raises:
        InputError: the bundle lacks an engine or a precision that was asked for.
        EngineError: an engine that should run does not.
    """
    cv2.setNumThreads(threads)
    named = [_named(bundle, *wanted) for wanted in engines if wanted[0] != "all"]
    # precisions that any engine may have
    open_to_all = {precision for engine, precision in engines if engine == "all"} if engines else {None}
    held_by = {name: engine_precisions(bundle, name) for name in ENGINE_NAMES}
    in_any = list(dict.fromkeys(p for held in held_by.values() for p in held))
    for precision in open_to_all - {None, *in_any}:
        hint = did_you_mean(str(precision), in_any) or " `ntre export` makes it with --precision."
        raise InputError(f"{bundle.folder} holds {', '.join(in_any) or 'no graphs'}, not {precision}.{hint}")
    systems: list[System] = []
    skipped: dict[str, str] = {}
    for name, reason in available_engines().items():
        asked = [precision for engine, precision in named if engine == name]
        held = held_by[name]
        chosen = [p for p in held if {p, None} & {*asked, *open_to_all}]
        chosen += [p for p in dict.fromkeys(asked) if p is not None and p not in held]  # refused when it is opened
        if asked and reason:
            raise EngineError(f"{name} cannot run here: {reason}; `ntre doctor` tells more.")
        if asked and not held:
            raise InputError(f"{bundle.folder} holds nothing for {name}; export it with --engine, or leave it out.")
        if chosen and reason:  # else nothing is missed that the bundle was not made for
            skipped[name] = reason
            continue
        for precision in chosen:
            if lacking := precision_unavailable(name, precision):
                if asked:
                    raise EngineError(f"{name} cannot run {precision} here: {lacking}.")
                skipped[f"{name} {precision}"] = lacking
                continue
            systems.append(_opened(bundle, name, precision, threads))
            if device_images and runs_on_gpu(name):
                systems.append(open_on_device(bundle, name + ON_DEVICE, precision, threads))
    return systems, skipped


def _named(bundle: Bundle, name: str, precision: str | None) -> Wanted:
    """The engine that a segmenter takes by a name that may leave the choice to it."""
    if name not in ("auto", "onnx"):
        return name, precision
    engine = open_engine(bundle, name, precision).engine
    return engine.name, engine.precision if name == "auto" else precision


def open_on_device(bundle: Bundle, name: str, precision: str, threads: int) -> Cached:
    """An engine whose name ends with `ON_DEVICE`."""
    engine = open_engine(bundle, name.removesuffix(ON_DEVICE), precision, threads, device_images=True).engine
    segmenter = Segmenter(engine, bundle.manifest.input, bundle.manifest.model)
    facts = _facts(bundle, engine.name, precision, engine)
    return Cached(segmenter, name, precision, facts, device="gpu", on_device=True)


def _opened(bundle: Bundle, name: str, precision: str, threads: int) -> Cached:
    spec, entry = bundle.manifest.input, bundle.manifest.model
    engine = open_engine(bundle, name, precision, threads).engine
    watch_transfers(engine)
    reopened = None
    if name == "openvino":  # compiled for one image at a time, its clones would queue
        reopened = partial(_for_throughput, bundle, name, precision, threads)
    facts, device = _facts(bundle, name, precision, engine), "gpu" if runs_on_gpu(name) else "cpu"
    return Cached(Segmenter(engine, spec, entry), name, precision, facts, reopened, device)


def _for_throughput(bundle: Bundle, name: str, precision: str, threads: int) -> Segmenter:
    engine = open_engine(bundle, name, precision, threads, hint="throughput").engine
    return Segmenter(engine, bundle.manifest.input, bundle.manifest.model)


def _facts(bundle: Bundle, name: str, precision: str, engine: Engine) -> Facts:
    built = bundle.built(name, precision)
    if built is not None:
        entries = [bundle.file(built.support), bundle.file(built.query)]
        asked = built.precision_asked
    else:
        entries = []
        # `onnx-cpu` reads the files of `onnx`
        for owner in (name, name.partition("-")[0]):
            found = [bundle.entry(role, owner, precision) for role in ("support", "query")]
            entries = [e for e in found if e is not None]
            if entries:
                break
        asked = entries[0].precision_asked if entries else ""
    files = {e.name: e.size for e in entries}
    kernels = getattr(engine, "kernels", None)
    if kernels is None:
        return Facts(asked, f"read back from {' and '.join(files)} at export", files)
    convolutions = kernels()["query"].get("Convolution", {})
    ran = ", ".join(f"{count} x {kind}" for kind, count in convolutions.items())
    return Facts(asked, f"convolutions of the compiled query graph: {ran}", files)

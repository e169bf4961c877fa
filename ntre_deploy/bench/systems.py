"""What is measured: PyTorch with the full network, PyTorch with cached supports, and every engine of the bundle."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.files import sha256
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import available_engines, engine_precisions, open_engine, precision_unavailable
from ntre_deploy.runtime.image import InputSpec
from ntre_deploy.runtime.segmenter import Segmenter

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Shots = Sequence[tuple[Pixels, Pixels]]


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

    def prepare(self, shots: Shots) -> Any:
        """What a query needs of its supports; not part of a query's time."""
        ...

    def compute(self, pixels: Float, state: Any) -> Float:
        """Prepared query [3, H, W] and the result of `prepare` -> logits [1, 2, h, w]."""
        ...


@dataclass(frozen=True)
class FullPyTorch:
    """The training graph, supports and all, for every query: the reference, and what the released code does."""

    network: Any  # ntre_deploy.export.torch_engines.FullNetwork; not imported here, so that bench loads without torch
    name: str = "pytorch full"
    precision: str = "fp32"

    def prepare(self, shots: Shots) -> Any:
        """Letterboxed tensors: the network itself runs in `compute`."""
        return self.network.prepare(shots)

    def compute(self, pixels: Float, state: Any) -> Float:
        """Supports and query through the whole network."""
        logits: Float = self.network.run(pixels, state)
        return logits


@dataclass(frozen=True)
class Cached:
    """An engine behind a `Segmenter`: supports are encoded once."""

    segmenter: Segmenter
    name: str
    precision: str

    def prepare(self, shots: Shots) -> Any:
        """Encode the supports."""
        return self.segmenter.stack(self.segmenter.encode_episode(shots))

    def compute(self, pixels: Float, state: Any) -> Float:
        """The query graph alone."""
        prototypes, keys = state
        logits: Float = self.segmenter.engine.query(pixels[None], prototypes, keys)[0]
        return logits


def find_checkpoint(bundle: Bundle, given: Path | None) -> Path:
    """The checkpoint that a bundle was made from: the one given, or one beside the bundle with the right SHA-256.

    Raises:
        InputError: there is none, or the one given is another.
    """
    wanted = bundle.manifest.model.checkpoint_sha256
    if given is not None:
        if not given.is_file():
            raise InputError(f"Checkpoint {given} does not exist or is not a file.")
        if sha256(given) != wanted:
            raise InputError(f"Checkpoint {given} is not the one that {bundle.folder} was exported from (its SHA-256).")
        return given
    beside = bundle.folder.absolute().parent
    for path in sorted(beside.glob("*.safetensors")):
        if path.is_file() and os.access(path, os.R_OK) and sha256(path) == wanted:
            return path
    raise InputError(
        f"The checkpoint of {bundle.folder} is not beside it; parity is measured against it: pass --checkpoint FILE."
    )


def build_systems(bundle: Bundle, checkpoint: Path, threads: int) -> tuple[list[System], dict[str, str]]:
    """All systems that this machine can run, the reference first, and why the others cannot.

    Raises:
        InputError: the checkpoint cannot be read.
        EngineError: an engine that should run does not.
    """
    import torch

    from ntre_deploy.export.torch_engines import FullNetwork, TorchEngine
    from ntre_deploy.model.checkpoint import load_checkpoint

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    spec: InputSpec = bundle.manifest.input
    entry = bundle.manifest.model
    model = load_checkpoint(checkpoint).model
    if entry.config != model.config.to_dict():
        raise InputError(
            f"The manifest of {bundle.folder} tells of another model than its checkpoint; export it again."
        )
    cached = Segmenter(TorchEngine(model, spec.size), spec, entry)
    systems: list[System] = [FullPyTorch(FullNetwork(model, spec)), Cached(cached, "pytorch cached", "fp32")]
    skipped = {}
    for name, reason in available_engines().items():
        if reason:
            skipped[name] = reason
            continue
        for precision in engine_precisions(bundle, name):
            if lacking := precision_unavailable(name, precision):
                skipped[f"{name} {precision}"] = lacking
                continue
            engine = open_engine(bundle, name, precision, threads).engine
            systems.append(Cached(Segmenter(engine, spec, entry), name, precision))
    return systems, skipped

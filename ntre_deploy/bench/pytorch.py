"""PyTorch's own ways to run the network, beside which engines are judged; nothing here needs torch before it is called.

On the CPU the full network and the cached graphs, in fp32.  Where an engine runs on a GPU and PyTorch sees it, both run
there too, in every precision and compiled, because a GPU is no merit of an engine.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntre_deploy.bench.systems import Cached, Facts, Float, Shots, System, Wanted, Ways, open_engines
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.calibration import NEUTRAL
from ntre_deploy.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from ntre_deploy.export.torch_engines import FullNetwork, Mode
    from ntre_deploy.model.network import FewShotNetwork

_PREFIX = "pytorch "
# the GPU's name in PyTorch: the first one
PLACE = "cuda"
FULL, CACHED = f"{_PREFIX}full", f"{_PREFIX}cached"


def installed() -> bool:
    """Whether there is a PyTorch to compare with."""
    return find_spec("torch") is not None


def is_pytorch(name: str) -> bool:
    """Whether a system is PyTorch and no engine of a bundle."""
    return name.startswith(_PREFIX)


def repeats_reference(label: str) -> bool:
    """Whether a system, by its name or label, is PyTorch once more: its masks show nothing new."""
    return any(variant.name in label for variant in (*ON_CPU, *ON_GPU) if variant.name != FULL)


def is_baseline(name: str, precision: str) -> bool:
    """Whether a system is what speed-ups on its device are against: the full network as released, in fp32."""
    return precision == "fp32" and name in (Variant(cached=False).name, Variant(cached=False, gpu=True).name)


@dataclass(frozen=True)
class Variant:
    """One way of PyTorch.

    Attributes:
        cached: the deploy graphs in place of the full network.
        precision: of `ntre_deploy.export.torch_engines.Mode`.
        gpu: on the first GPU.
        compiled: by torch.compile.
    """

    cached: bool
    precision: str = "fp32"
    gpu: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """Such as `pytorch full cuda compiled`."""
        return (CACHED if self.cached else FULL) + " cuda" * self.gpu + " compiled" * self.compiled


ON_CPU = (Variant(False), Variant(True))
# where an engine's speed-up is against the full network in fp32, which comes first
ON_GPU = (
    *(
        Variant(cached, precision, gpu=True)
        for precision in ("fp32", "tf32", "fp16", "bf16")
        for cached in (False, True)
    ),
    *(Variant(cached, "fp16", gpu=True, compiled=True) for cached in (False, True)),
)


def gpu_variants() -> list[Variant]:
    """Those that PyTorch can run on a GPU here; none where it sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [v for v in ON_GPU if v.precision != "bf16" or torch.cuda.is_bf16_supported()]


def variant_of(name: str, precision: str) -> Variant:
    """The variant behind a system's name and precision."""
    return next(v for v in (*ON_CPU, *ON_GPU) if (v.name, v.precision) == (name, precision))


@dataclass(frozen=True)
class FullPyTorch:
    """The training graph, supports and all, for every query: what the released code does; on the CPU the reference."""

    network: "FullNetwork"
    name: str = FULL
    precision: str = "fp32"
    facts: Facts = field(default_factory=Facts)
    device: str = "cpu"

    def prepare(self, shots: Shots) -> Any:
        """Letterboxed tensors: the network itself runs in `compute`."""
        return self.network.prepare(shots)

    def prepare_ways(self, classes: Sequence[Shots], calibrate: bool) -> Ways:
        """As `prepare`, for each class; see `System.prepare_ways`."""
        from ntre_deploy.training.ways_runs import network_calibrations

        found = network_calibrations(self.network, classes) if calibrate else [NEUTRAL] * len(classes)
        return Ways([self.network.prepare(shots) for shots in classes], found)

    def compute(self, pixels: Float, state: Any) -> Float:
        """Supports and query through the whole network, once for each class; shapes as in `System`."""
        states = state if isinstance(state, list) else [state]
        logits = [self.network.run(pixels, one) for one in states]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def transfers(self) -> tuple[float, float] | None:
        """See `Cached.transfers`; of several classes, the last one's."""
        return self.network.transfer_ms


class Network:
    """A bundle's network in PyTorch; what several variants share is made once.

    Args:
        checkpoint: that the bundle was made from.
        threads: of PyTorch in this process, on the CPU.

    Raises:
        InputError: the checkpoint cannot be read, or is not the bundle's.
    """

    def __init__(self, bundle: Bundle, checkpoint: Path, threads: int) -> None:
        import torch

        from ntre_deploy.model.checkpoint import load_checkpoint

        torch.set_num_threads(threads)
        self._model, self._bundle = load_checkpoint(checkpoint).model, bundle
        if bundle.manifest.model.config != self._model.config.to_dict():
            raise InputError(
                f"The manifest of {bundle.folder} tells of another model than its checkpoint; export it again."
            )

    def system(self, variant: Variant) -> System:
        """One variant, ready to run."""
        from ntre_deploy.export.torch_engines import MODES, FullNetwork, TorchEngine

        spec, entry = self._bundle.manifest.input, self._bundle.manifest.model
        mode, device = MODES[variant.precision], "gpu" if variant.gpu else "cpu"
        facts = Facts(variant.precision, self._evidence(variant, mode))
        if variant.cached:
            place = PLACE if variant.gpu else "cpu"
            engine = TorchEngine(self._model, spec.size, mode, device=place, compiled=variant.compiled)
            segmenter = Segmenter(engine, spec, entry)
            return Cached(segmenter, variant.name, variant.precision, facts, device=device)
        model = self._model if not variant.gpu else self._on_gpu_half if mode.half else self._on_gpu
        network = FullNetwork(model, spec, mode, compiled=variant.compiled)
        return FullPyTorch(network, variant.name, variant.precision, facts, device)

    @cached_property
    def _on_gpu(self) -> "FewShotNetwork":
        # a copy: the deploy graphs are made of the network on the CPU
        return deepcopy(self._model).to(PLACE)

    @cached_property
    def _on_gpu_half(self) -> "FewShotNetwork":
        import torch

        return deepcopy(self._on_gpu).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _evidence(self, variant: Variant, mode: "Mode") -> str:
        kinds = ", ".join(sorted({str(parameter.dtype) for parameter in self._model.parameters()}))
        if not variant.gpu:
            return f"parameters are {kinds}"
        if not mode.half:
            return f"parameters are {kinds}; TF32 is {'on' if mode.tf32 else 'off'}"
        how = "the deploy graph is" if variant.cached else "autocast to"
        return f"{how} {mode.dtype}, channels_last"


def build_systems(
    bundle: Bundle, checkpoint: Path, threads: int, engines: Sequence[Wanted] = ()
) -> tuple[list[System], dict[str, str]]:
    """PyTorch on the CPU, the reference first, then what `open_engines` gives.

    Raises:
        InputError, EngineError: as `Network` and `open_engines`.
    """
    network = Network(bundle, checkpoint, threads)
    added, skipped = open_engines(bundle, threads, engines)
    return [*map(network.system, ON_CPU), *added], skipped

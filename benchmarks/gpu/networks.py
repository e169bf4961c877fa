"""The networks that are measured, in PyTorch, and their inputs."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ntre_deploy.export.graphs import query_graph
from ntre_deploy.export.torch_engines import BF16, FP16, FP32, TF32, Mode, as_tensors
from ntre_deploy.model.checkpoint import save_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.stacked import StackedSupports, stack

Float = NDArray[np.float32]
# key columns of a usual object, padded as the runtime pads them
_KEYS = 512


class Case(NamedTuple):
    """Size of a query."""

    shots: int
    batch: int
    classes: int

    def __str__(self) -> str:
        return f"{self.shots}-shot batch {self.batch} N {self.classes}"


class Inputs(NamedTuple):
    """An image float32 [B, 3, H, W] and the supports that it is queried with."""

    image: Float
    supports: StackedSupports


class Run(NamedTuple):
    """One thing to measure: `call` gives logits in a mode, and `reference` what they should be (fp32 without TF32)."""

    label: str
    mode: Mode
    call: Callable[[], torch.Tensor]
    reference: Callable[[], torch.Tensor]


def cases(quick: bool) -> list[Case]:
    """What the engines and the cached graph are measured on."""
    if quick:
        return [Case(1, 1, 1), Case(1, 2, 1)]
    return [Case(s, b, n) for b in (1, 16) for s in (1, 5) for n in (1, 10)]


class Networks:
    """One network with random weights: latency and parity need no others.

    Args:
        quick: a tiny network in place of the named one.
        backbone: `resnet50` or `resnet101`.
        device: of PyTorch.
    """

    def __init__(self, quick: bool, backbone: str, device: str) -> None:
        config, weights = NTRENetConfig(backbone=backbone), "random:0"
        if quick:
            # the tiny network of the tests, whose graphs they have already (`NTRE_GRAPH_CACHE`)
            weights = "random:3"
            config = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=65)
        model, self._origin = import_weights(weights, config)
        self._quick, self._device = quick, device
        self.model, self.size = model.eval(), config.input_size
        self._query: torch.nn.Module | None = None
        torch.backends.cudnn.benchmark = True

    def checkpoint(self, folder: Path) -> Path:
        """The network as a file."""
        path = folder / f"{self.model.config.backbone}.safetensors"
        save_checkpoint(path, self.model, self._origin)
        return path

    def inputs(self, bundle: Bundle | None, case: Case, seed: int = 0) -> Inputs:
        """Random inputs; keys are unit vectors without negative values, as the support graph makes them."""
        rng = np.random.default_rng(seed)
        most = _KEYS if bundle is None else min(_KEYS, int(np.prod(bundle.manifest.model.feature_size)))
        keys = np.abs(rng.standard_normal((case.classes, case.shots, self.model.key_channels, most), dtype=np.float32))
        prototypes = rng.standard_normal((case.classes, self.model.prototype_channels), dtype=np.float32)
        return Inputs(
            rng.standard_normal((case.batch, 3, self.size, self.size), dtype=np.float32),
            stack(list(prototypes), keys / np.linalg.norm(keys, axis=2, keepdims=True)),
        )

    def reference(self, given: Inputs) -> Float:
        """Logits of the query graph in PyTorch, fp32 without TF32."""
        logits: Float = self._reference(given).cpu().numpy()
        return logits

    def eager(self) -> Iterator[Run]:
        """Full network and cached graph in every mode, one after the other; each is dropped before the next."""
        for mode in (FP32, TF32, FP16, BF16):
            model = self._model(mode)
            for case in _full_cases(self._quick):
                yield self._full(f"eager full {mode.precision} {case}", case, mode, model)
            graph = self._graph(mode)
            for case in cases(self._quick):
                yield self._cached(f"eager cached {mode.precision} {case}", case, mode, graph)

    def compiled(self, how: str, *, full: bool) -> Iterator[Run]:
        """torch.compile of the full network or of the cached graph, fp16, CUDA graphs.

        Args:
            how: `reduce-overhead` or `max-autotune`; what one has compiled, the other finds in Inductor's cache.
        """
        kind = "default" if self._device == "cpu" else how
        # on the CPU, half has few kernels
        mode = FP16 if self._device == "cuda" else FP32
        # static: with several shapes, the second compilation would be for any
        if full:
            model = torch.compile(self._model(mode), mode=kind, dynamic=False)
            for case in [c for c in _full_cases(self._quick) if c.batch == 1]:
                yield self._full(f"compile {how} full {mode.precision} {case}", case, mode, model)
            return
        graph = torch.compile(self._graph(mode), mode=kind, dynamic=False)
        some = [c for c in cases(self._quick) if c.classes == 1 and (c.batch == 1 or c.shots == 1)]
        for case in some[: 1 if self._quick else None]:
            yield self._cached(f"compile {how} cached {mode.precision} {case}", case, mode, graph)

    def packaged(self, folder: Path) -> Run:
        """The cached 1-shot query by AOTInductor, as a `.pt2` file."""
        case = Case(1, 1, 1)
        # for the CPU, as everything of a trial there, in fp32: half has few kernels
        mode = FP16 if self._device == "cuda" else FP32
        graph = self._graph(mode)
        with torch.inference_mode():
            program = torch.export.export(graph, self._there(self.inputs(None, case), mode))
            path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder.resolve() / "query.pt2"))
            runner: Any = torch._inductor.aoti_load_package(path)
        return self._cached(f"inductor cached {mode.precision} {case}", case, mode, runner)

    def photo_query(self, mode: Mode) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
        """The cached query graph on the device, and the supports of one class in one shot as it takes them."""
        return self._graph(mode), self._there(self.inputs(None, Case(1, 1, 1)), mode)[1:]

    def _reference(self, given: Inputs) -> torch.Tensor:
        if self._query is None:
            self._query = query_graph(self.model, self.size).to(self._device)
        with torch.inference_mode(), FP32.chosen():
            logits: torch.Tensor = self._query(*self._there(given, FP32))
        return logits

    def _there(self, given: Inputs, mode: Mode) -> tuple[torch.Tensor, ...]:
        arrays = (torch.from_numpy(given.image), *as_tensors(given.supports, mode.dtype))
        return tuple(array.to(self._device) for array in arrays)

    def _graph(self, mode: Mode) -> torch.nn.Module:
        graph = query_graph(self.model, self.size, mode.dtype).to(self._device)
        return graph.to(memory_format=torch.channels_last) if mode.half else graph

    def _cached(self, label: str, case: Case, mode: Mode, graph: Any) -> Run:
        given = self.inputs(None, case)
        there = self._there(given, mode)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                logits: torch.Tensor = graph(*there)
            return logits

        return Run(label, mode, call, lambda: self._reference(given))

    def _model(self, mode: Mode) -> torch.nn.Module:
        # a copy: graphs are made of the network on the CPU
        model = deepcopy(self.model).to(self._device)
        return model.to(memory_format=torch.channels_last) if mode.half else model

    def _full(self, label: str, case: Case, mode: Mode, model: torch.nn.Module) -> Run:
        side = self.size
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(case.batch, 3, side, side, generator=generator).to(self._device)
        shots = torch.randn(case.batch, case.shots, 3, side, side, generator=generator).to(self._device)
        masks = torch.zeros(case.batch, case.shots, side, side, device=self._device)
        masks[..., side // 4 : side // 2, side // 4 : side // 2] = 1
        pixels = image.to(memory_format=torch.channels_last) if mode.half else image
        kind = "cpu" if self._device == "cpu" else "cuda"

        def call() -> torch.Tensor:
            # whole in fp16 the training graph gives NaN, so the norms and epsilons stay where autocast leaves them
            with torch.inference_mode(), torch.autocast(kind, mode.dtype, enabled=mode.half):
                logits: torch.Tensor = model(pixels, shots, masks).logits
            return logits

        def reference() -> torch.Tensor:
            with torch.inference_mode(), FP32.chosen():
                logits: torch.Tensor = self._model(FP32)(image, shots, masks).logits
            return logits

        return Run(label, mode, call, reference)


def _full_cases(quick: bool) -> list[Case]:
    # for N classes, the full network runs N times
    return [Case(1, 1, 1)] if quick else [Case(1, 1, 1), Case(5, 1, 1), Case(1, 16, 1), Case(5, 16, 1)]

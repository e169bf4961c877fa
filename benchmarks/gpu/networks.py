"""The networks that are measured, in PyTorch, and their inputs."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ntre_deploy.export.graphs import query_graph
from ntre_deploy.model.checkpoint import save_checkpoint
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.bundle import Bundle

Float = NDArray[np.float32]
Call = tuple[str, Callable[[], object]]

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
    """Inputs of the query graph, float32."""

    image: Float
    prototypes: Float
    keys: Float


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
        config = NTRENetConfig(backbone=backbone)
        if quick:
            config = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=65)
        model, self._origin = import_weights("random:0", config)
        self._quick, self._device = quick, device
        self.model, self.size = model.eval(), config.input_size
        self._query: torch.nn.Module | None = None

    def checkpoint(self, folder: Path) -> Path:
        """The network as a file."""
        path = folder / f"{self.model.config.backbone}.safetensors"
        save_checkpoint(path, self.model, self._origin)
        return path

    def inputs(self, bundle: Bundle | None, case: Case, seed: int = 0) -> Inputs:
        """Random inputs; keys are unit vectors without negative values, as the support graph makes them."""
        rng = np.random.default_rng(seed)
        depth = self.model.backbone.channels[2]
        most = _KEYS if bundle is None else min(_KEYS, int(np.prod(bundle.manifest.model.feature_size)))
        keys = np.abs(rng.standard_normal((case.classes, case.shots, depth, most), dtype=np.float32))
        return Inputs(
            rng.standard_normal((case.batch, 3, self.size, self.size), dtype=np.float32),
            rng.standard_normal((case.classes, self.model.config.width), dtype=np.float32),
            keys / np.linalg.norm(keys, axis=2, keepdims=True),
        )

    def reference(self, given: Inputs) -> Float:
        """Logits of the query graph in PyTorch, fp32 without TF32."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if self._query is None:
            self._query = query_graph(self.model, self.size).to(self._device)
        with torch.inference_mode():
            logits: Float = self._query(*self._there(given)).cpu().numpy()
        return logits

    def eager(self) -> Iterator[Call]:
        """Full network and cached graph in both precisions, one after the other; each is dropped before the next."""
        for half in (False, True):
            for case in _full_cases(self._quick):
                yield f"eager full {_name(half)} {case}", self._full(case, half)
            graph = self._graph(half)
            for case in cases(self._quick):
                yield f"eager cached {_name(half)} {case}", self._cached(graph, case)

    def compiled(self, *, full: bool) -> Iterator[Call]:
        """torch.compile of the full network or of the cached graph, fp16, CUDA graphs."""
        mode = "default" if self._device == "cpu" else "max-autotune"
        if full:
            # static: with several shapes, the second compilation would be for any
            model = torch.compile(self._model(True), mode=mode, dynamic=False)
            for case in [c for c in _full_cases(self._quick) if c.batch == 1]:
                yield f"compile full fp16 {case}", self._full(case, True, model)
            return
        graph = torch.compile(self._graph(True), mode=mode, dynamic=False)
        for case in [c for c in cases(self._quick) if c.classes == 1 and (c.batch == 1 or c.shots == 1)]:
            yield f"compile cached fp16 {case}", self._cached(graph, case)

    def packaged(self, folder: Path) -> Call:
        """The cached 1-shot query by AOTInductor, as a `.pt2` file."""
        case = Case(1, 1, 1)
        given = self._there(self.inputs(None, case))
        # for the CPU, as everything of a trial there, in fp32: half has few kernels
        graph = self._graph(self._device == "cuda")
        with torch.inference_mode():
            program = torch.export.export(graph, given)
            path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder.resolve() / "query.pt2"))
            runner: Any = torch._inductor.aoti_load_package(path)
        return f"inductor cached {case}", lambda: runner(*given)

    def _there(self, given: Inputs) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self._device) for array in given)

    def _graph(self, half: bool) -> torch.nn.Module:
        graph = query_graph(self.model, self.size, torch.float16 if half else torch.float32).to(self._device)
        return graph.to(memory_format=torch.channels_last) if half else graph

    def _cached(self, graph: Any, case: Case) -> Callable[[], object]:
        given = self._there(self.inputs(None, case))

        def call() -> object:
            with torch.inference_mode():
                return graph(*given)

        return call

    def _model(self, half: bool) -> torch.nn.Module:
        # a copy: graphs are made of the network on the CPU
        model = deepcopy(self.model).to(self._device)
        return model.to(memory_format=torch.channels_last) if half else model

    def _full(self, case: Case, half: bool, model: Any = None) -> Callable[[], object]:
        run = model or self._model(half)
        side = self.size
        image = torch.randn(case.batch, 3, side, side, device=self._device)
        shots = torch.randn(case.batch, case.shots, 3, side, side, device=self._device)
        masks = torch.zeros(case.batch, case.shots, side, side, device=self._device)
        masks[..., side // 4 : side // 2, side // 4 : side // 2] = 1
        if half:
            image = image.to(memory_format=torch.channels_last)
        kind = "cpu" if self._device == "cpu" else "cuda"

        def call() -> object:
            # whole in fp16 the training graph gives NaN, so the norms and epsilons stay where autocast leaves them
            with torch.inference_mode(), torch.autocast(kind, torch.float16, enabled=half):
                return run(image, shots, masks).logits

        return call


def _full_cases(quick: bool) -> list[Case]:
    # for N classes, the full network runs N times
    return [Case(1, 1, 1)] if quick else [Case(1, 1, 1), Case(5, 1, 1), Case(1, 16, 1), Case(5, 16, 1)]


def _name(half: bool) -> str:
    return "fp16 channels_last" if half else "fp32"

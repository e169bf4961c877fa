"""PyTorch's own ways to run the cached query graph, beside the engines of a bundle."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntre_deploy.bench.pytorch import build_systems
from ntre_deploy.bench.systems import Cached, System, find_checkpoint
from ntre_deploy.export.graphs import query_graph
from ntre_deploy.export.torch_engines import TorchEngine, as_tensors
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Graph = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class VariantEngine:
    """PyTorch's eager engine with another way to run the query graph; supports are encoded as ever.

    Args:
        graph: takes image, prototypes, keys and chunks, as `QueryGraph` does.
        context: made anew around each call, such as autocast.
    """

    name = "torch"

    def __init__(
        self,
        base: TorchEngine,
        precision: str,
        graph: Graph,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.precision = precision
        self._base, self._graph, self._context, self._layout = base, graph, context, layout

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """See `Engine.support`."""
        return self._base.support(image, mask)

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        with torch.inference_mode(), self._context():
            pixels = torch.from_numpy(image).contiguous(memory_format=self._layout)
            logits = self._graph(pixels, *as_tensors(supports))
        return np.asarray(logits.float().numpy())

    def clone(self) -> "VariantEngine":
        """Modules in inference mode are safe to share."""
        return self


def load_model(bundle: Bundle, checkpoint: Path | None = None) -> FewShotNetwork:
    """The PyTorch network that a bundle was made from."""
    return load_checkpoint(find_checkpoint(bundle, checkpoint)).model


def all_systems(bundle: Bundle, threads: int, checkpoint: Path | None = None) -> tuple[list[System], dict[str, str]]:
    """PyTorch full (the reference), PyTorch's cached variants, and every engine of the bundle that runs here."""
    systems, skipped = build_systems(bundle, find_checkpoint(bundle, checkpoint), threads)
    spec, entry = bundle.manifest.input, bundle.manifest.model
    model = load_model(bundle, checkpoint)
    base = TorchEngine(model, spec.size)
    compiled = torch.compile(query_graph(model, spec.size))
    last = torch.channels_last
    # torch's stubs do not know the type of a module in another layout
    moved = query_graph(model, spec.size).to(memory_format=last)  # type: ignore[call-overload]
    autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    variants = [
        ("pytorch compiled", VariantEngine(base, "fp32", compiled)),
        ("pytorch autocast", VariantEngine(base, "bf16", moved, autocast, last)),
    ]
    added = [Cached(Segmenter(engine, spec, entry), name, engine.precision) for name, engine in variants]
    return [*systems[:2], *added, *systems[2:]], skipped

"""The two deployed graphs, whichever head a network has: what they share, and where a head's own are found."""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ntre_deploy.export.fold import fold_batchnorm
from ntre_deploy.model.heads import HEADS
from ntre_deploy.model.network import FewShotNetwork

Size = tuple[int, int]


class SupportBase(nn.Module, ABC):
    """One annotated image to what queries need of it; `dtype` is the precision of the heavy parts."""

    def __init__(self, model: FewShotNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.backbone = fold_batchnorm(model.backbone).to(dtype)

    @abstractmethod
    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image [B, 3, H, W], mask [B, 1, H, W] of 0 and 1, float32.

        Returns:
            prototypes float32 [B, C]; keys float32 [B, D, h*w], L2-normalised, zero outside the mask.
        """


class QueryBase(nn.Module, ABC):
    """One image against N classes: it is encoded once; `feature` is the size (h, w) of the logits."""

    def __init__(self, model: FewShotNetwork, feature: Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.feature = dtype, feature
        self.backbone = fold_batchnorm(model.backbone).to(dtype)

    def forward(self, image: Tensor, prototypes: Tensor, keys: Tensor, chunks: Tensor) -> Tensor:
        """Image [B, 3, H, W] and the supports of N classes -> logits [B, N, 2, h, w].

        Args:
            image: float32, normalised.
            prototypes, keys, chunks: see `ntre_deploy.runtime.stacked.StackedSupports`; the keys are in `dtype`,
                so that no query has to round them, or in fp16 beside bf16: their product is in their own type.
        """
        f2, f3 = self.backbone.lower(image.to(self.dtype))
        return self.head(image, f2, f3, self.backbone.upper(f3), prototypes, keys, chunks)

    @abstractmethod
    def head(
        self, image: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, prototypes: Tensor, keys: Tensor, chunks: Tensor
    ) -> Tensor:
        """Everything behind the backbone; shapes as in `forward`."""


def feature_sizes(model: FewShotNetwork, input_size: int) -> tuple[Size, Size, Size]:
    """Sizes (h, w) of f2, f3 and f4 for a square input."""
    with torch.inference_mode():
        features = model.query_features(torch.zeros(1, 3, input_size, input_size))
    f2, f3, f4 = ((f.shape[2], f.shape[3]) for f in features[:3])
    return f2, f3, f4


def support_graph(model: FewShotNetwork, input_size: int, dtype: torch.dtype = torch.float32) -> SupportBase:
    """The support graph of a network for a square input, in eval mode."""
    graph: SupportBase = _module(model).SupportGraph(model, input_size, dtype)
    return graph.eval()


def query_graph(model: FewShotNetwork, input_size: int, dtype: torch.dtype = torch.float32) -> QueryBase:
    """The query graph of a network for a square input, in eval mode."""
    graph: QueryBase = _module(model).QueryGraph(model, input_size, dtype)
    return graph.eval()


def _module(model: FewShotNetwork) -> Any:
    return import_module(HEADS[model.config.head].graphs)

"""The deployed refiner: the matcher's support graph, and its score with the correction folded, in float32."""

import copy

import torch
from torch import Tensor

from ntre_deploy.export.fold import constant, fold_batchnorm
from ntre_deploy.export.graphs import QueryBase, feature_sizes
from ntre_deploy.export.matcher import SupportGraph, nearest_key
from ntre_deploy.model.network import shown
from ntre_deploy.model.refiner import Refiner

__all__ = ["QueryGraph", "SupportGraph"]


class QueryGraph(QueryBase):
    """One image against N classes."""

    def __init__(self, model: Refiner, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        f2, _, _ = feature_sizes(model, input_size)
        super().__init__(model, f2, dtype)
        self.corrector = fold_batchnorm(model.corrector)
        self.bias = constant(model.bias)
        self.adapter = copy.deepcopy(model.adapter)

    def head(
        self, image: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, prototypes: Tensor, keys: Tensor, chunks: Tensor
    ) -> Tensor:
        """See `QueryBase`."""
        f4 = f4 if self.adapter is None else self.adapter(f4)
        margin, _ = self.corrector(f2, f3, f4, shown(image), prototypes[None], nearest_key(f4, keys, chunks))
        return torch.stack([-margin / 2, margin / 2], 2) + self.bias.view(2, 1, 1)

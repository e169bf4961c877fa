"""The deployed matcher: masked averages of a support, and two cosines of every place of a query.

What lies behind the backbone is float32: products of a few prototypes cost nothing beside it.
"""

import copy

import torch
from torch import Tensor

from ntre_deploy.export.fold import constant
from ntre_deploy.export.graphs import QueryBase, SupportBase, feature_sizes
from ntre_deploy.export.prior import best_cosines, mean_of_shots
from ntre_deploy.model.matcher import Matcher
from ntre_deploy.model.matching import resize
from ntre_deploy.model.network import shown
from ntre_deploy.model.refiner import Refiner
from ntre_deploy.model.similarity import quarter, support_keys, support_prototypes, two_way


class SupportGraph(SupportBase):
    """One annotated image to its prototypes, target and background, of layer 4 and perhaps of layer 3."""

    def __init__(self, model: Matcher | Refiner, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.adapter = copy.deepcopy(model.adapter)
        self.both = model.prototype_channels > 2 * model.key_channels

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `SupportBase`."""
        _, f3 = self.backbone.lower(image.to(self.dtype))
        f4 = self.backbone.upper(f3)
        f4 = f4 if self.adapter is None else self.adapter(f4)
        target = quarter(mask)
        background = (shown(image) - target).clamp_min(0)
        prototypes = support_prototypes([f4, f3] if self.both else [f4], target, background)
        return prototypes, support_keys(f4, target).flatten(2)


class QueryGraph(QueryBase):
    """One image against N classes."""

    def __init__(self, model: Matcher, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        _, f3, f4 = feature_sizes(model, input_size)
        super().__init__(model, f3 if model.config.fine else f4, dtype)
        self.scale, self.bias = constant(model.scale), constant(model.bias)
        self.adapter = copy.deepcopy(model.adapter)
        self.fine, self.nearest = model.config.fine, model.config.nearest

    def head(
        self, image: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, prototypes: Tensor, keys: Tensor, chunks: Tensor
    ) -> Tensor:
        """See `QueryBase`."""
        f4 = f4 if self.adapter is None else self.adapter(f4)
        score = two_way(f3, f4, prototypes[None], self.fine)
        if self.nearest:
            score = score + self.nearest * resize(nearest_key(f4, keys, chunks), self.feature)
        margin = self.scale * score
        return torch.stack([-margin / 2, margin / 2], 2) + self.bias.view(2, 1, 1)


def nearest_key(f4: Tensor, keys: Tensor, chunks: Tensor) -> Tensor:
    """The best cosine to any key, mean over the shots that are there: float32 [B, N, h4, w4]; see `best_cosines`."""
    return mean_of_shots(best_cosines(f4, keys, chunks), chunks, (f4.shape[2], f4.shape[3]))

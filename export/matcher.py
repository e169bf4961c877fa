"""The deployed matcher: masked averages of a support, and two cosines of every place of a query."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.export.fold import constant
from ntre_deploy.export.graphs import QueryBase, SupportBase
from ntre_deploy.export.linear import resize_chain
from ntre_deploy.export.prior import best_cosines, mean_of_shots, normalise
from ntre_deploy.model.matcher import AREA_EPSILON, Matcher
from ntre_deploy.model.network import shown


class SupportGraph(SupportBase):
    """One annotated image to its two prototypes."""

    def __init__(self, model: Matcher, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.to_feature = resize_chain((input_size, input_size), feature_size(model, input_size))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `SupportBase`; the prototypes are [B, 2 D]."""
        _, f3 = self.backbone.lower(image.to(self.dtype))
        f4 = self.backbone.upper(f3)
        target = self.to_feature(mask)  # float32 [B, 1, h, w]
        background = F.relu(self.to_feature(shown(image)) - target)
        weights = torch.cat([target, background], 1).flatten(2)  # [B, 2, hw]
        feature = f4.flatten(2).to(torch.float32)
        pair = weights @ feature.transpose(1, 2) / (weights.sum(2, keepdim=True) + AREA_EPSILON)  # [B, 2, D]
        inside = (target.flatten(2) > 0).to(torch.float32)
        return pair.flatten(1), normalise(feature, 1) * inside


class QueryGraph(QueryBase):
    """One image against N classes."""

    def __init__(self, model: Matcher, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, feature_size(model, input_size), dtype)
        self.scale, self.bias = constant(model.scale), constant(model.bias)
        self.nearest = model.config.nearest

    def head(self, f2: Tensor, f3: Tensor, f4: Tensor, prototypes: Tensor, keys: Tensor) -> Tensor:
        """See `QueryBase`."""
        b, d, h, w = f4.shape
        n = prototypes.shape[0]
        unit = normalise(prototypes.view(2 * n, d), 1).to(self.dtype)
        places = normalise(f4, 1).flatten(2).to(self.dtype)  # [B, D, hw]
        target, background = (unit @ places).to(torch.float32).view(b, n, 2, h, w).unbind(2)
        if self.nearest:
            best = best_cosines(f4, keys, self.dtype)
            key = mean_of_shots(best, best.amin(1, keepdim=True), n, (h, w))
            target = (1 - self.nearest) * target + self.nearest * key
        return self.scale * torch.stack([background, target], 2) + self.bias.view(2, 1, 1)


def feature_size(model: Matcher, input_size: int) -> tuple[int, int]:
    """Size (h, w) of layer 4 for a square input."""
    with torch.inference_mode():
        f4 = model.query_features(torch.zeros(1, 3, input_size, input_size)).f4
    return f4.shape[2], f4.shape[3]

"""Rewrite 2: "expand a prototype, concatenate, 1x1 convolution" as a convolution plus a bias per channel.

A 1x1 convolution of [feature, prototype repeated over space] is the convolution of the feature by the first columns of
the weight, plus the product of the last columns with the prototype: no expanded map remains.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.export.fold import constant


class FoldedMerge(nn.Module):
    """F_1x1 of [feature, prototype, rest]: `forward` gives the feature's share, `bias` the prototype's.

    Args:
        merge: trained 1x1 convolution and ReLU over the concatenation.
        feature, prototype: channels of the two parts; what follows them (the prior) is `rest`.
    """

    def __init__(self, merge: nn.Sequential, feature: int, prototype: int) -> None:
        super().__init__()
        weight = merge[0].weight
        assert isinstance(weight, Tensor)
        self.feature = constant(weight[:, :feature])  # [C, feature, 1, 1]
        self.prototype = constant(weight[:, feature : feature + prototype, 0, 0].T)  # [prototype, C]
        self.rest = constant(weight[:, feature + prototype :, 0, 0].T)  # [rest, C]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, feature, h, w] -> [B, C, h, w]; a constant `bias` [C] is added by the convolution itself."""
        return F.conv2d(x, self.feature, bias)

    def bias(self, prototype: Tensor) -> Tensor:
        """[..., prototype] -> [..., C]."""
        return prototype @ self.prototype

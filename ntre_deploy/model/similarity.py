"""Cosine matching of a query to the prototypes of N classes: for the training and the deployed graph alike.

B is the batch, N the classes, D the channels of a feature, h x w its size.  Masks stand at a quarter of the input's
resolution, [B, *, q, q] with q = (S - 1) / 4 + 1, so that every grid of the backbone is pooled from them alike.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.model.matching import resize

AREA_EPSILON = 1e-5
# side of a mask's pixel, in pixels of the input
MASK_STEP = 4
# share of the target at a place from which on its feature is a key; half of the best where none has so much
KEY_SHARE = 0.3
_RANGE_EPSILON = 1e-4
# cosines of features behind a ReLU lie within 0 and 1, their differences within -1 and 1
_BEYOND = 4.0


class Adapter(nn.Module):
    """A low-rank change of layer 4 (after LoRA, Hu et al., ICLR 2022): what a few photos can teach a frozen backbone.

    It starts as the identity, and what comes out is not negative, as the cosines' best over keys needs it.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, f4: Tensor) -> Tensor:
        """[B, D, h, w] -> float32 [B, D, h, w]."""
        f4 = f4.float()
        return F.relu(f4 + self.up(self.down(f4)))


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """`x` [.., D, ..] divided by its norm along `dim`; in float32, where a squared norm cannot overflow."""
    return F.normalize(x.float(), dim=dim)


def pooled(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of a mask [B, N, m, m] around each place of a grid [h, w] that spans the same image: [B, N, h, w].

    A window reaches half-way to the neighbours, and what it covers beyond the image counts as nothing.
    """
    step = (mask.shape[-1] - 1) // (size[1] - 1)
    return mask if step == 1 else F.avg_pool2d(mask, step + 1, step, (step + 1) // 2)


def quarter(mask: Tensor) -> Tensor:
    """A mask [B, N, S, S] at the resolution of masks: shares [B, N, q, q]."""
    side = (mask.shape[-1] - 1) // MASK_STEP + 1
    return pooled(mask, (side, side))


def weighted_mean(feature: Tensor, weights: Tensor) -> Tensor:
    """Mean of a feature [B, D, h, w] under N weights [B, N, h, w] each: [B, N, D]."""
    w = weights.flatten(2)
    return w @ feature.flatten(2).transpose(1, 2) / (w.sum(2, keepdim=True) + AREA_EPSILON)


def cosines(feature: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of a unit feature [B, D, h, w] to prototypes [B or 1, N, D] of any length: [B, N, h, w]."""
    values = unit(prototypes, 2) @ feature.flatten(2)
    return values.view(feature.shape[0], -1, feature.shape[2], feature.shape[3])


def margins(feature: Tensor, target: Tensor, background: Tensor) -> Tensor:
    """Cosines to N target prototypes less those to N background prototypes [B or 1, N, D]: [B, N, h, w].

    One product with the difference of the unit prototypes: the two cosines are alike, and in 16 bits each alone would
    be rounded by as much as they differ.
    """
    values = (unit(target, 2) - unit(background, 2)) @ feature.flatten(2)
    return values.view(feature.shape[0], -1, feature.shape[2], feature.shape[3])


def support_prototypes(features: Sequence[Tensor], target: Tensor, background: Tensor) -> Tensor:
    """Unit means of each feature [B, D, h, w] over target and background [B, 1, q, q], side by side: [B, 2 sum(D)]."""
    parts = []
    for x in features:
        for mask in (target, background):
            parts.append(unit(weighted_mean(x.float(), pooled(mask, (x.shape[2], x.shape[3])))[:, 0]))
    return torch.cat(parts, 1)


def support_keys(f4: Tensor, target: Tensor) -> Tensor:
    """Layer 4 [B, D, h, w] as unit keys where the target [B, 1, q, q] has its share of a place, zero elsewhere."""
    near = pooled(target, (f4.shape[2], f4.shape[3]))
    least = (near.amax((2, 3), keepdim=True) / 2).clamp_max(KEY_SHARE)
    return unit(f4) * (near > least).float()


def two_way(f3: Tensor, f4: Tensor, prototypes: Tensor, fine: float) -> Tensor:
    """How much nearer the target is than the background: by layer 4, and `fine` times by layer 3 on its finer grid.

    Args:
        f3, f4: features [B, D3, h3, w3] and [B, D4, h4, w4].
        prototypes: of `support_prototypes([f4, f3])`, [B or 1, N, 2 (D4 + D3)]; without `fine`, of `[f4]`.

    Returns:
        [B, N, h3, w3]; without `fine`, [B, N, h4, w4].
    """
    d = f4.shape[1]
    score = margins(unit(f4), prototypes[..., :d], prototypes[..., d : 2 * d])
    if not fine:
        return score
    target, background = prototypes[..., 2 * d :].chunk(2, -1)
    return resize(score, (f3.shape[2], f3.shape[3])) + fine * margins(unit(f3), target, background)


def min_max(x: Tensor, inside: Tensor) -> Tensor:
    """Maps [B, N, h, w] scaled to 0..1 over the places of the image, which are 1 in `inside` [B, 1, h, w]."""
    low = (x + _BEYOND * (1 - inside)).amin((2, 3), keepdim=True)
    high = (x - _BEYOND * (1 - inside)).amax((2, 3), keepdim=True)
    return (x - low) / (high - low + _RANGE_EPSILON)

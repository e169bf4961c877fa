"""Support prototype, support keys and the prior mask (eq. 5, after PFENet): functions without weights."""

import torch
from torch import Tensor
from torch.nn import functional as F

# of the released code: keeps the min-max defined where every similarity is equal
PRIOR_EPSILON = 1e-7


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with aligned corners, [B, C, h, w] -> [B, C, *size]."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels [..., H, W] of any dtype at the places of a feature, with aligned corners: [..., *size]."""
    h, w = labels.shape[-2:]
    rows, columns = (
        torch.linspace(0, side - 1, count, dtype=torch.float64).round().long().to(labels.device)
        for side, count in ((h, size[0]), (w, size[1]))
    )
    return labels[..., rows, :][..., columns]


def expand_as(prototype: Tensor, feature: Tensor) -> Tensor:
    """Repeat a prototype [B or 1, C] over the batch and positions of `feature` [B, *, h, w]."""
    return prototype[:, :, None, None].expand(feature.shape[0], -1, *feature.shape[-2:])


def masked_average(feature: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Masked average pooling: feature [B, C, h, w], mask [B, 1, h, w] -> [B, C]."""
    return (feature * mask).sum((2, 3)) / (mask.sum((2, 3)) + epsilon)


def best_cosine(f4: Tensor, keys: Tensor) -> Tensor:
    """The best cosine similarity of every place to any key of one shot.

    Args:
        f4: layer-4 feature of the query, [B, D, h, w].
        keys: layer-4 feature of the support, [B, D, hs, ws], zero outside the mask.

    Returns:
        [B, 1, h, w].
    """
    b, _, h, w = f4.shape
    q = f4.flatten(2)  # [B, D, hw]
    k = keys.flatten(2)  # [B, D, M]
    norms = k.norm(dim=1)[:, :, None] * q.norm(dim=1)[:, None, :]
    similarity = torch.bmm(k.transpose(1, 2), q) / (norms + PRIOR_EPSILON)  # [B, M, hw]
    best: Tensor = similarity.amax(1).view(b, 1, h, w)
    return best


def prior_mask(f4: Tensor, keys: Tensor) -> Tensor:
    """Prior of one shot (eq. 5): the best cosine similarity to any key, scaled to 0..1 per query.

    Args:
        f4, keys: as of `best_cosine`, the keys of the masked support.

    Returns:
        [B, 1, h, w], in [0, 1].
    """
    best = best_cosine(f4, keys)
    low, high = best.amin((2, 3), keepdim=True), best.amax((2, 3), keepdim=True)
    scaled: Tensor = (best - low) / (high - low + PRIOR_EPSILON)
    return scaled

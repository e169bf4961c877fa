"""Rewrite 3: the DO mask (eq. 7) and its pooling (eq. 8) as comparisons and a product; no control flow on data."""

from torch import Tensor


def do_mask(background_margin: Tensor, initial_margin: Tensor) -> Tensor:
    """relu(1 - argmax(BG logits) - argmax(initial logits)) from the margins "class 1 - class 0".

    argmax gives class 0 on a tie, so a margin counts only when it is above zero.

    Args:
        background_margin: float32 [B, 1, b, b].
        initial_margin: float32 [B, N, b, b].

    Returns:
        float32 [B, N, b, b] of 0 and 1; NaN where a margin is NaN or infinite.
    """
    neither = (background_margin <= 0) & (initial_margin <= 0)
    # a comparison would make a decision of NaN, and nobody would see in finite logits that 16 bits had overflowed
    undecided = (background_margin - background_margin) + (initial_margin - initial_margin)
    return neither.to(initial_margin.dtype) + undecided


def do_prototype(feature: Tensor, mask: Tensor, area_epsilon: float | None) -> Tensor:
    """Pooling under the DO mask as one product; in float32, because it sums thousands of positions.

    Args:
        feature: [B, C, b, b].
        mask: float32 [B, N, b, b].
        area_epsilon: masked mean with this in the area (paper); None takes the mean over all pixels (released).

    Returns:
        float32 [B, N, C].
    """
    pixels = mask.flatten(2)  # [B, N, bb]
    total = pixels @ feature.flatten(2).transpose(1, 2).to(mask.dtype)
    if area_epsilon is None:
        return total / pixels.shape[2]
    return total / (pixels.sum(2, keepdim=True) + area_epsilon)

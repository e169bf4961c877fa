"""Losses of NTRENet: BG mining (eq. 3), target (eq. 12), prototypical contrastive learning (eq. 10), total (eq. 11).

Labels are int64 [B, H, W] with 0, 1 (target) and 255 (ignore); logits are [B, 2, h, w] and are resized to the label.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.model.matching import resize
from ntre_deploy.model.ntrenet import Prediction

IGNORE = 255

Share = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the total (eq. 11); the defaults are the released code's.

    Attributes:
        alpha: of "every pixel may be background" inside the BG mining loss (eq. 3).
        bg: of the BG mining loss.
        initial: of the initial predictions, mean over stages (released code).
        inner: of the pyramid's inner predictions, mean over bins (released code, after PFENet).
    """

    alpha: float = 0.5
    bg: float = 1.0
    initial: float = 0.6
    inner: float = 0.4


def _identity(count: Tensor) -> Tensor:
    return count


def target_loss(logits: Tensor, label: Tensor, share: Share = _identity) -> Tensor:
    """Cross-entropy (eq. 12) at the label's size, mean over the pixels that are not 255.

    Args:
        share: gives the mean over all processes of a count of pixels, so that the mean of the processes' losses is the
            loss of the whole batch.
    """
    resized = resize(logits, (label.shape[1], label.shape[2]))
    total = F.cross_entropy(resized, label, ignore_index=IGNORE, reduction="sum")
    return total / share((label != IGNORE).sum()).clamp_min(1)


def bg_mining_loss(logits: Tensor, label: Tensor, alpha: float = 0.5) -> Tensor:
    """BG mining (eq. 3, released form): target pixels are no background, and all others lean to it.

    Args:
        logits: [B, 2, h, w]; class 1 is background.
        label: [B, H, W]; the second part counts every pixel, ignored ones too, as the released code does.
    """
    log = resize(logits, (label.shape[1], label.shape[2])).log_softmax(1)
    target = (label == 1).to(log.dtype)
    on_target = (-log[:, 0] * target).sum((1, 2)) / (target.sum((1, 2)) + 1e-5)
    return on_target.mean() - alpha * log[:, 1].mean()


def total_loss(
    prediction: Prediction,
    query_label: Tensor,
    support_labels: Tensor,
    weights: LossWeights | None = None,
    share: Share = _identity,
) -> dict[str, Tensor]:
    """All parts without the contrastive term, and their weighted sum under `total`.

    Args:
        prediction: of a model in training mode.
        query_label: [B, H, W].
        support_labels: [B, K, H, W].
        share: as in `target_loss`.

    Returns:
        Unweighted `main`, `bg`, `initial`, `inner` (absent where the model has no such part) and `total`.
    """
    weights = weights or LossWeights()
    parts = {"main": target_loss(prediction.logits, query_label, share)}
    total = parts["main"]
    if prediction.bg_logits is not None:
        terms = [bg_mining_loss(prediction.bg_logits, query_label, weights.alpha)]
        for k, logits in enumerate(prediction.support_bg_logits):
            terms.append(bg_mining_loss(logits, support_labels[:, k], weights.alpha))
        parts["bg"] = torch.stack(terms).mean()
        total = total + weights.bg * parts["bg"]
    for name, weight, group in (
        ("initial", weights.initial, prediction.initial_logits),
        ("inner", weights.inner, prediction.inner_logits),
    ):
        if group:
            parts[name] = torch.stack([target_loss(logits, query_label, share) for logits in group]).mean()
            total = total + weight * parts[name]
    return parts | {"total": total}

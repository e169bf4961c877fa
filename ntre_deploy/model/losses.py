"""Losses of NTRENet: BG mining (eq. 3), target (eq. 12), prototypical contrastive learning (eq. 10), total (eq. 11).

Labels are int64 [B, H, W] with 0, 1 (target) and 255 (ignore); logits are [B, 2, h, w] and are resized to the label.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.model.matching import nearest, resize
from ntre_deploy.model.network import Prediction
from ntre_deploy.runtime.masks import IGNORE

# the ends of a prior are 0 and 1 by its min-max; no logarithm is taken there
PRIOR_MARGIN = 1e-3
DENSE_TEMPERATURE = 0.05

Share = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the total (eq. 11); the defaults are the released code's.

    Attributes:
        alpha: of "every pixel may be background" inside the BG mining loss (eq. 3).
        bg: of the BG mining loss.
        initial: of the initial predictions, mean over stages (released code).
        inner: of the pyramid's inner predictions, mean over bins (released code, after PFENet).
        target: of target pixels in the cross-entropies (eq. 12); not in the paper, where it is 1.  A model that is
            unsure calls nothing the target; mIoU is best at a threshold of J / (1 + J) for a reachable IoU of J, which
            the weight 1 / J brings to one half.
        target_most: `target` with the most supports (`data.most_shots`), between which it changes evenly: more of them
            reach a higher IoU; None keeps `target`.
        dense: of a classification of all learned classes on layer 4, by cosine to a proxy of each; not in the paper:
            it trains a backbone from scratch faster than the targets alone, and needs a dataset with dense labels.
        prior: of the prior mask (eq. 5) as a prediction of its own; not in the paper: it teaches layer 4 of a
            backbone that is trained, and does nothing for a frozen one.
        iou: of 1 - soft IoU beside each target loss; not in the paper: it is nearer to what mIoU measures.
    """

    alpha: float = 0.5
    bg: float = 1.0
    initial: float = 0.6
    inner: float = 0.4
    target: float = 1.0
    target_most: float | None = None
    prior: float = 0.0
    dense: float = 0.0
    iou: float = 0.0


def _identity(count: Tensor) -> Tensor:
    return count


def target_loss(logits: Tensor, label: Tensor, share: Share = _identity, weight: float = 1.0) -> Tensor:
    """Cross-entropy (eq. 12) at the label's size, weighted mean over the pixels that are not 255.

    Args:
        logits: [B, 2, h, w].
        label: int64 [B, H, W].
        weight: of target pixels; the others have 1.
        share: gives the mean over all processes of a count of pixels, so that the mean of the processes' losses is the
            loss of the whole batch.
    """
    resized = resize(logits, (label.shape[1], label.shape[2]))
    if weight == 1:
        total = F.cross_entropy(resized, label, ignore_index=IGNORE, reduction="sum")
        return total / share((label != IGNORE).sum()).clamp_min(1)
    weights = resized.new_tensor([1.0, weight])
    total = F.cross_entropy(resized, label, weights, ignore_index=IGNORE, reduction="sum")
    return total / share((label != IGNORE).sum() + (weight - 1) * (label == 1).sum()).clamp_min(1)


def iou_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - soft IoU of the target over the pixels that are not 255: two parts over the batch, one over its items.

    Logits [B, 2, h, w] are resized to the label [B, H, W], which holds 0, 1 and 255; the result is a scalar.

    The batch's own is steady where a target is small, and the items' sees it there at all.
    """
    p = resize(logits, (label.shape[1], label.shape[2])).softmax(1)[:, 1] * (label != IGNORE)
    y = (label == 1).to(p.dtype)
    both = (p * y).sum((1, 2))
    union = (p + y).sum((1, 2)) - both
    return 1 - (2 * both.sum() / (union.sum() + 1) + (both / (union + 1)).mean()) / 3


def prior_loss(prior: Tensor, label: Tensor, share: Share = _identity) -> Tensor:
    """Binary cross-entropy of a prior [B, 1, h, w] in [0, 1], mean over the pixels that are not 255."""
    resized = resize(prior, (label.shape[1], label.shape[2]))[:, 0].clamp(PRIOR_MARGIN, 1 - PRIOR_MARGIN)
    valid = label != IGNORE
    total = F.binary_cross_entropy(resized, (label == 1).to(resized.dtype), valid.to(resized.dtype), reduction="sum")
    return total / share(valid.sum()).clamp_min(1)


def dense_loss(
    prediction: Prediction, proxies: Tensor, dense_label: Tensor, support_labels: Tensor, classes: Tensor
) -> Tensor:
    """Classification of layer 4 by cosine to a proxy of each class (Movshovitz-Attias et al., ICCV 2017).

    Args:
        proxies: [n, D]; the first is what is no object.
        dense_label: int64 [B, H, W], rows of `proxies`, -100 for none.
        support_labels: int64 [B, K, H, W]; supports count where they are 1, with the proxy of their class.
        classes: int64 [B], class ids, one less than the row of the proxy.
    """
    f4 = prediction.query.f4
    size = (f4.shape[2], f4.shape[3])
    features = [f4.permute(0, 2, 3, 1).flatten(0, 2)]
    labels = [nearest(dense_label, size).flatten()]
    for k, support in enumerate(prediction.supports):
        shown = nearest(support_labels[:, k], size) == 1
        features.append(support.keys.permute(0, 2, 3, 1).flatten(0, 2))
        labels.append(torch.where(shown, classes[:, None, None] + 1, -100).flatten())
    label = torch.cat(labels)
    counted = label != -100
    x = F.normalize(torch.cat(features)[counted].float(), dim=1)
    logits = x @ F.normalize(proxies, dim=1).T / DENSE_TEMPERATURE
    return F.cross_entropy(logits, label[counted])


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

    def of_target(logits: Tensor) -> Tensor:
        loss = target_loss(logits, query_label, share, weights.target)
        return loss + weights.iou * iou_loss(logits, query_label) if weights.iou else loss

    parts = {"main": of_target(prediction.logits)}
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
            parts[name] = torch.stack([of_target(x) for x in group]).mean()
            total = total + weight * parts[name]
    if weights.prior:
        parts["prior"] = prior_loss(prediction.prior, query_label, share)
        total = total + weights.prior * parts["prior"]
    return parts | {"total": total}

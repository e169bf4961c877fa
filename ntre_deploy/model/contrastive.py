"""Prototypical contrastive learning (eq. 10): the target's prototypes attract, those of distracting objects repel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.model.matching import masked_average

Negatives = Literal["do", "bg", "non_target"]
Gather = Callable[[Tensor], Tensor]

AREA_EPSILON = 0.0005
_COSINE_EPSILON = 1e-8


@dataclass(frozen=True)
class ContrastiveConfig:
    """Options of the contrastive term.

    Attributes:
        weight: gamma of eq. 11.
        size: prototypes that a bank keeps, newest first.
        drawn: at most so many of them serve as negatives of a sample.
        per_class: a bank for each class (released code), or one for all (paper).
        negatives: regions whose prototypes repel: distracting objects, background, or all that is not target (table 4).
    """

    weight: float = 0.01
    size: int = 2000
    drawn: int = 1000
    per_class: bool = True
    negatives: Negatives = "do"


@dataclass(frozen=True)
class ContrastiveInput:
    """One shot at feature resolution.

    Attributes:
        query_feature, support_feature: [B, C, h, w].
        logits: final logits of the query, [B, 2, h, w].
        query_bg_logits, support_bg_logits: [B, 2, h, w]; class 1 is background.
        query_label, support_label: [B, H, W] with 0, 1 and 255 at any size.
        classes: [B], int64.
    """

    query_feature: Tensor
    support_feature: Tensor
    logits: Tensor
    query_bg_logits: Tensor
    support_bg_logits: Tensor
    query_label: Tensor
    support_label: Tensor
    classes: Tensor


@dataclass
class PrototypeBank:
    """Negative prototypes without gradient: key (the class, or 0 for a common bank) -> [n, C], newest first."""

    config: ContrastiveConfig
    prototypes: dict[int, Tensor] = field(default_factory=dict)

    def key(self, class_id: int) -> int:
        """The bank that a class uses."""
        return class_id if self.config.per_class else 0

    def add(self, class_id: int, new: Tensor) -> None:
        """Put [n, C] in front, and forget the oldest beyond `size`."""
        key = self.key(class_id)
        held = [new.detach()] + ([self.prototypes[key]] if key in self.prototypes else [])
        self.prototypes[key] = torch.cat(held)[: self.config.size]

    def draw(self, class_id: int, seed: int = 0) -> Tensor:
        """The class's negatives [n, C]; more than `drawn` are drawn without replacement, by the seed alone."""
        held = self.prototypes[self.key(class_id)]
        if len(held) <= self.config.drawn:
            return held
        chosen = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[: self.config.drawn]
        return held[chosen.to(held.device)]

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints: key as text -> [n, C]."""
        return {str(key): value for key, value in self.prototypes.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.prototypes = {int(key): value for key, value in state.items()}


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def contrastive_loss(
    x: ContrastiveInput, bank: PrototypeBank, seeds: Sequence[int] | None = None, gather: Gather = _identity
) -> Tensor:
    """The unweighted contrastive loss of a batch; the bank takes this batch's negatives first (released code).

    The positive is not in the denominator and the temperature is 1, as in the released code.

    Args:
        seeds: of the draw of each sample's negatives; None takes the sample's place in the batch.
        gather: joins [b, ...] of all processes to [B, ...], so that their banks stay equal.
    """
    query, support = _target(x.query_label, x.logits), _target(x.support_label, x.support_bg_logits)
    query_negative = _prototype(x.query_feature, _region(x.query_bg_logits, query, bank.config.negatives))
    support_negative = _prototype(x.support_feature, _region(x.support_bg_logits, support, bank.config.negatives))
    everyone, query_all, support_all = (gather(t.detach()) for t in (x.classes, query_negative, support_negative))
    for class_id in sorted(set(everyone.tolist())):
        mine = everyone == class_id
        bank.add(class_id, torch.cat([query_all[mine], support_all[mine]]))
    anchor = _prototype(x.query_feature, x.logits.argmax(1, keepdim=True).to(x.logits.dtype))
    positive = _prototype(x.support_feature, support)
    attraction = F.cosine_similarity(anchor, positive, dim=1, eps=_COSINE_EPSILON).exp()
    losses = []
    for i, class_id in enumerate(x.classes.tolist()):
        negatives = bank.draw(class_id, i if seeds is None else seeds[i])
        repulsion = F.cosine_similarity(anchor[i : i + 1], negatives, dim=1, eps=_COSINE_EPSILON).exp().sum()
        losses.append(-torch.log(attraction[i] / repulsion + 1e-8))
    return torch.stack(losses).mean()


def _target(label: Tensor, like: Tensor) -> Tensor:
    """Label [B, H, W] to a mask [B, 1, h, w] of 0 and 1 at the size of `like`; 255 becomes 0."""
    mask = (label == 1).to(like.dtype)[:, None]
    return F.interpolate(mask, size=like.shape[-2:], mode="nearest")


def _region(bg_logits: Tensor, target: Tensor, negatives: Negatives) -> Tensor:
    background = bg_logits.argmax(1, keepdim=True).to(target.dtype)
    if negatives == "do":
        return F.relu(1 - background - target)
    return F.relu((background if negatives == "bg" else torch.ones_like(target)) - target)


def _prototype(feature: Tensor, mask: Tensor) -> Tensor:
    return masked_average(feature, mask, AREA_EPSILON)

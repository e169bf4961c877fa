"""What every few-shot network is: a backbone, and a head that encodes supports and a query and brings them together.

The two deployed graphs (support -> prototype and keys, query -> logits) are the same for all heads; a head decides what
its prototype and keys are.  B is the batch, K the shots, C the channels of a prototype, D those of layer 4, h x w the
feature size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ntre_deploy.model.backbones import build_backbone
from ntre_deploy.model.config import ModelConfig
from ntre_deploy.model.matching import resize
from ntre_deploy.model.similarity import MASK_STEP


class Features(NamedTuple):
    """What the backbone gives, each [B, C, h, w]: layers 2 and 3, and layer 4 (of a support: as the head wants it).

    `shown` [B, 1, q, q] is 1 where the image is and 0 in its letterbox's fill, at every fourth pixel of the input.
    """

    f2: Tensor
    f3: Tensor
    f4: Tensor
    shown: Tensor


class Query(NamedTuple):
    """Features of the query image: `feature` [B, C, h, w], `f4` [B, D, h4, w4] and, for heads that want it, all."""

    feature: Tensor
    f4: Tensor
    whole: Features | None = None


class Support(NamedTuple):
    """One shot: `feature` [B, C, h, w], `prototype` [B, C], `keys` [B, D, h4, w4] (zero outside the mask)."""

    feature: Tensor
    prototype: Tensor
    keys: Tensor


@dataclass
class Prediction:
    """Everything that losses, parity checks and figure 5 of the paper look at.

    The lists have one entry per stage: every bin in the released form, one in the paper's.

    Attributes:
        logits: [B, 2, h, w] at feature resolution; class 1 is the target.
        prior: [B, 1, h4, w4], mean over shots (eq. 5).
        bg_logits: [B, 2, h, w]; class 1 is background (eq. 1); None without BGEM and DOEM.
        initial_logits: [B, 2, b, b] each (eq. 6); empty without DOEM.
        do_masks: [B, 1, b, b] each (eq. 7).
        do_prototypes: [B, C] each (eq. 8).
        inner_logits: [B, 2, b, b] for each bin; only in training mode.
        support_bg_logits: [B, 2, h, w] for each shot (eq. 2); only in training mode.
        query, prototype, supports: the features that went in; `prototype` [B, C] is the mean over shots.
    """

    logits: Tensor
    prior: Tensor
    query: Query
    prototype: Tensor
    supports: list[Support]
    bg_logits: Tensor | None = None
    initial_logits: list[Tensor] = field(default_factory=list)
    do_masks: list[Tensor] = field(default_factory=list)
    do_prototypes: list[Tensor] = field(default_factory=list)
    inner_logits: list[Tensor] = field(default_factory=list)
    support_bg_logits: list[Tensor] = field(default_factory=list)


def target_at(mask: Tensor, feature: Tensor, label: int = 1) -> Tensor:
    """Share of a label (1: the target) of masks [B, H, W] at the places of a feature [B, C, h, w]: [B, 1, h, w]."""
    return resize((mask == label).to(feature.dtype)[:, None], (feature.shape[2], feature.shape[3]))


def shown(image: Tensor) -> Tensor:
    """Where a normalised image [B, 3, S, S] is not the fill of its letterbox: float32 [B, 1, q, q] of 0 and 1.

    q = (S - 1) / 4 + 1: every fourth pixel, the resolution at which `similarity` takes masks.

    The fill is zero and lies below and to the right, so a row or column belongs to the image if it or one behind it
    holds anything else.
    """
    pixels = (image.abs().amax(1, keepdim=True) > 0).to(torch.float32)  # [B, 1, H, W]
    parts = []
    for axis in (2, 3):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        number = torch.arange(1, image.shape[axis] + 1, device=image.device, dtype=torch.float32).view(shape)
        last = (pixels * number).amax((2, 3), keepdim=True)
        parts.append((number <= last).to(torch.float32))
    return (parts[0] * parts[1])[:, :, ::MASK_STEP, ::MASK_STEP]


class FewShotNetwork(nn.Module, ABC):
    """The training graph of a head on its backbone; `ntre_deploy.export` rewrites it for deployment.

    A head is a class derived from this one with `prototype_channels`, `encode_query`, `encode_support`, `decode` and
    `decisions`; its supports meet the query as the mean of their prototypes and by their keys, and in no other way.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)

    @property
    @abstractmethod
    def prototype_channels(self) -> int:
        """Channels C of a support's prototype."""

    @property
    def key_channels(self) -> int:
        """Channels D of a support's keys."""
        return self.backbone.channels[2]

    @abstractmethod
    def encode_query(self, image: Tensor | Features) -> Query:
        """Normalised image [B, 3, H, W], or its `query_features` -> query features."""

    @abstractmethod
    def encode_support(self, image: Tensor | Features, mask: Tensor) -> Support:
        """Normalised image [B, 3, H, W], or `support_features`, and mask [B, H, W] (1 is the target) -> one shot's."""

    @abstractmethod
    def decode(self, query: Query, supports: list[Support]) -> Prediction:
        """Segment the query with K shots."""

    @abstractmethod
    def decisions(self, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """Two-class logits [B, 2, h, w] of a prediction, each with the bias [2] that is added to them.

        The final logits come first; behind them are those whose argmax feeds back into the features.
        """

    @property
    @abstractmethod
    def final_bias(self) -> Tensor:
        """The bias [2] of the final logits, which holds the threshold of the decision."""

    @property
    def rates(self) -> dict[str, float]:
        """Names of parameters that learn at another rate, with its factor: numbers of another scale than weights."""
        return {}

    def as_support(self, features: Features, mask: Tensor) -> Features:
        """`query_features` as those of a support with the mask [B, H, W]: here layer 4 behind the mask, as in eq. 5."""
        return features._replace(f4=self.backbone.upper(features.f3 * target_at(mask, features.f3)))

    def query_features(self, image: Tensor) -> Features:
        """Normalised image [B, 3, H, W] -> what the backbone gives for it."""
        f2, f3 = self.backbone.lower(image)
        f4 = self.backbone.upper(f3)
        return Features(f2, f3, f4, shown(image))

    def as_features(self, image: Tensor | Features) -> Features:
        """Normalised image [B, 3, H, W], or its features -> its features."""
        return image if isinstance(image, Features) else self.query_features(image)

    def support_features(self, image: Tensor, mask: Tensor) -> Features:
        """Normalised image [B, 3, H, W] and mask [B, H, W] (1 is the target) -> what the backbone gives for them."""
        f2, f3 = self.backbone.lower(image)
        return self.as_support(Features(f2, f3, f3, shown(image)), mask)

    def forward(self, image: Tensor | Features, support_images: Tensor | Features, support_masks: Tensor) -> Prediction:
        """Query [B, 3, H, W], supports [B, K, 3, H, W] and masks [B, K, H, W] (1 is the target) -> `Prediction`.

        Query and supports may be features of the backbone in place of images, the supports' as [B, K, C, h, w].
        """
        supports = []
        for k in range(support_masks.shape[1]):
            shot: Tensor | Features
            if isinstance(support_images, Features):
                shot = Features(*(feature[:, k] for feature in support_images))
            else:
                shot = support_images[:, k]
            supports.append(self.encode_support(shot, support_masks[:, k]))
        return self.decode(self.encode_query(image), supports)

    @torch.inference_mode()
    def balance(self, image: Tensor, support_image: Tensor, mask: Tensor) -> None:
        """Move the biases of an untrained head so that its decisions split an image in halves.

        Otherwise all of a mask would be one class, and comparing masks would prove nothing.

        Args:
            image: normalised query [1, 3, H, W].
            support_image: [1, 1, 3, H, W].
            mask: [1, 1, H, W].
        """
        # the first pass mends what feeds back, the second the final logits, which depend on that
        for _ in range(2):
            for logits, bias in self.decisions(self(image, support_image, mask)):
                bias[1] -= (logits[:, 1] - logits[:, 0]).median()

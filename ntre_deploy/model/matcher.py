"""The training-free matcher: two prototypes of a support, target and background, and the nearer one by cosine.

Foreground and background prototype are masked averages of layer 4 (PANet, Wang et al., ICCV 2019, without its
training), the layer of the prior (eq. 5), and of layer 3 on its finer grid.  What can be learned or calibrated are a
scale and a bias of the two scores; the bias holds the threshold.
"""

import torch
from torch import Tensor, nn

from ntre_deploy.model.config import MatcherConfig
from ntre_deploy.model.matching import best_cosine, resize
from ntre_deploy.model.network import Features, FewShotNetwork, Prediction, Query, Support
from ntre_deploy.model.similarity import Adapter, quarter, support_keys, support_prototypes, two_way
from ntre_deploy.runtime.masks import IGNORE

# of untrained logits: the scores of neighbouring prototypes differ by a few hundredths
SCALE = 20.0


class Matcher(FewShotNetwork):
    """The training graph; `ntre_deploy.export.matcher` is the deployed one."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__(config)
        self.config: MatcherConfig = config
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.bias = nn.Parameter(torch.zeros(2))
        self.adapter = Adapter(self.key_channels, config.adapter) if config.adapter else None

    @property
    def prototype_channels(self) -> int:
        """Target's and background's, of layer 4 and, with `fine`, of layer 3."""
        _, c3, c4 = self.backbone.channels
        return 2 * (c4 + c3) if self.config.fine else 2 * c4

    def support_features(self, image: Tensor, mask: Tensor) -> Features:
        """As in `query_features`: the background's prototype needs what lies outside the mask."""
        return self.query_features(image)

    def as_support(self, features: Features, mask: Tensor) -> Features:
        """The features as they are, for the same reason; see `FewShotNetwork.as_support`."""
        return features

    def encode_query(self, image: Tensor | Features) -> Query:
        """See `FewShotNetwork.encode_query`."""
        features = adapted(self.adapter, self.as_features(image))
        return Query(features.f3, features.f4)

    def encode_support(self, image: Tensor | Features, mask: Tensor) -> Support:
        """See `FewShotNetwork.encode_support`."""
        features = adapted(self.adapter, self.as_features(image))
        target, background = support_masks(features, mask)
        layers = [features.f4, features.f3] if self.config.fine else [features.f4]
        prototype = support_prototypes(layers, target, background)
        return Support(features.f3, prototype, support_keys(features.f4, target))

    def decode(self, query: Query, supports: list[Support]) -> Prediction:
        """See `FewShotNetwork.decode`."""
        prototype = torch.stack([s.prototype for s in supports]).mean(0)
        score = two_way(query.feature, query.f4, prototype[:, None], self.config.fine)
        best = torch.stack([best_cosine(query.f4, s.keys) for s in supports]).mean(0)
        score = score + self.config.nearest * resize(best, (score.shape[2], score.shape[3]))
        logits = two_class(self.scale * score) + self.bias[None, :, None, None]
        return Prediction(logits=logits, prior=best, query=query, prototype=prototype, supports=supports)

    @property
    def rates(self) -> dict[str, float]:
        """The scale lies around 20; the bias holds a threshold in logits, which a few photos must be able to move."""
        return {"scale": 50, "bias": 20}

    @property
    def final_bias(self) -> Tensor:
        """See `FewShotNetwork.final_bias`."""
        return self.bias

    def decisions(self, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """The final logits [B, 2, h, w] alone."""
        return [(prediction.logits, self.bias)]


def support_masks(features: Features, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Target and background [B, 1, q, q] of a support's mask [B, H, W]: 1, and what is neither 1 nor 255 nor fill."""
    target, ignored = (quarter((mask == label).float()[:, None]) for label in (1, IGNORE))
    return target, (features.shown - target - ignored).clamp_min(0)


def two_class(margin: Tensor) -> Tensor:
    """A margin [B, 1, h, w] as logits [B, 2, h, w]."""
    return torch.cat([-margin / 2, margin / 2], 1)


def adapted(adapter: Adapter | None, features: Features) -> Features:
    """Features with what an adapter makes of layer 4."""
    return features if adapter is None else features._replace(f4=adapter(features.f4))

"""The training-free matcher: two prototypes of a support, target and background, and the nearer one by cosine.

Foreground and background prototype are masked averages of layer 4 (PANet, Wang et al., ICCV 2019, without its
training), the layer of the prior (eq. 5).  What can be learned or calibrated are a scale and a bias of the two cosines;
the bias holds the threshold.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.model.config import MatcherConfig
from ntre_deploy.model.losses import IGNORE
from ntre_deploy.model.matching import best_cosine, masked_average
from ntre_deploy.model.network import Features, FewShotNetwork, Prediction, Query, Support, target_at

AREA_EPSILON = 1e-5
# of untrained logits: cosines of neighbouring prototypes differ by a few hundredths
SCALE = 20.0


class Matcher(FewShotNetwork):
    """The training graph; `ntre_deploy.export.matcher` is the deployed one."""

    def __init__(self, config: MatcherConfig) -> None:
        super().__init__(config)
        self.config: MatcherConfig = config
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.bias = nn.Parameter(torch.zeros(2))

    @property
    def prototype_channels(self) -> int:
        """Those of the target's and of the background's prototype."""
        return 2 * self.key_channels

    def support_features(self, image: Tensor, mask: Tensor) -> Features:
        """As of a query: the background's prototype needs what lies outside the mask."""
        return self.query_features(image)

    def encode_query(self, image: Tensor | Features) -> Query:
        """See `FewShotNetwork.encode_query`."""
        f4 = self.as_features(image).f4
        return Query(f4, f4)

    def encode_support(self, image: Tensor | Features, mask: Tensor) -> Support:
        """See `FewShotNetwork.encode_support`; the prototype [B, 2 D] is the target's, then the background's."""
        features = self.as_features(image)
        f4 = features.f4
        target = target_at(mask, f4)
        background = (features.shown - target - target_at(mask, f4, IGNORE)).clamp_min(0)
        pair = [masked_average(f4, weight, AREA_EPSILON) for weight in (target, background)]
        return Support(f4, torch.cat(pair, 1), f4 * target)

    def decode(self, query: Query, supports: list[Support]) -> Prediction:
        """See `FewShotNetwork.decode`."""
        prototype = torch.stack([s.prototype for s in supports]).mean(0)
        target, background = (cosine(query.f4, p) for p in prototype.chunk(2, 1))
        prior = target
        if self.config.nearest:
            prior = torch.stack([best_cosine(query.f4, s.keys) for s in supports]).mean(0)
            target = (1 - self.config.nearest) * target + self.config.nearest * prior
        logits = self.scale * torch.cat([background, target], 1) + self.bias[None, :, None, None]
        return Prediction(logits=logits, prior=prior, query=query, prototype=prototype, supports=supports)

    def decisions(self, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """The final logits alone."""
        return [(prediction.logits, self.bias)]


def cosine(feature: Tensor, prototype: Tensor) -> Tensor:
    """Cosine of a feature [B, D, h, w] to a prototype [B, D] at every place: [B, 1, h, w]."""
    return F.cosine_similarity(feature, prototype[:, :, None, None], dim=1)[:, None]

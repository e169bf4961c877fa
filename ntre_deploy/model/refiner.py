"""The refiner: the matcher, and a small network without classes that corrects its score.

The correction sees no feature of layers 3 and 4 but only how similar they are: to the support, and to what the query
itself holds at its most certain places (self-support, Fan et al., ECCV 2022).  So nothing of it can belong to a class
that it learned from; layer 2 enters through a few channels, for the outlines.  It starts at zero, where the network is
the matcher.
"""

import torch
from torch import Tensor, nn

from ntre_deploy.model.config import RefinerConfig
from ntre_deploy.model.matcher import SCALE, adapted, support_masks, two_class
from ntre_deploy.model.matching import best_cosine, resize
from ntre_deploy.model.network import Features, FewShotNetwork, Prediction, Query, Support
from ntre_deploy.model.similarity import (
    Adapter,
    cosines,
    margins,
    min_max,
    pooled,
    support_keys,
    support_prototypes,
    unit,
    weighted_mean,
)

# maps at the grid of layer 4, and at finer ones
_MAPS, _DETAILS = 10, 4
_ROUNDS = 2
# share of layer 4's channels that a training step leaves out
_DROPPED = 0.2
# a start between the prototypes' scores of target and background
_THRESHOLD = 0.005


def _block(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class Corrector(nn.Module):
    """Features of a query, prototypes of N classes and their best cosines to margins; float32 throughout."""

    def __init__(self, channels: tuple[int, int, int], config: RefinerConfig) -> None:
        super().__init__()
        c2, self.c3, self.c4 = channels
        width, guide = config.width, config.guide
        self.fine = config.fine
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.threshold = nn.Parameter(torch.tensor(_THRESHOLD))
        self.sharp = nn.Parameter(torch.full((_ROUNDS + 1,), 20.0))
        self.guide = nn.Sequential(
            nn.Conv2d(c2, guide, 1, bias=False), nn.BatchNorm2d(guide), nn.ReLU(), nn.Dropout2d(0.3)
        )
        self.low = nn.Sequential(_block(_MAPS, width), _block(width, width, 3), _block(width, width))
        self.context = nn.Linear(2 * width, width)
        last = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        inputs = width + _MAPS + guide + 1 + _DETAILS
        self.high = nn.Sequential(_block(inputs, width), _block(width, width), nn.Dropout2d(0.1), last)

    def forward(
        self, f2: Tensor, f3: Tensor, f4: Tensor, shown: Tensor, prototypes: Tensor, best: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Margins of the corrected and of the plain score, each [B, N, h2, w2].

        Args:
            f2, f3, f4: features of the query.
            shown: where the image is, [B, 1, q, q].
            prototypes: [B or 1, N, 2 (D4 + D3)].
            best: cosines to the nearest key, mean over shots, [B, N, h4, w4].
        """
        prototypes = prototypes.expand(f2.shape[0], -1, -1)
        b, n, _ = prototypes.shape
        m4, m3, maps, detail = self._maps(f2.float(), f3.float(), f4.float(), shown, prototypes, best)
        size = (f2.shape[2], f2.shape[3])
        plain = self.scale * (resize(m4, size) + self.fine * resize(m3, size) - self.threshold)
        x = self.low(maps.flatten(0, 1))
        whole = self.context(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))[:, :, None, None]
        of_image = torch.cat([self.guide(f2.float()), pooled(shown, size)], 1)[:, None]
        inputs = [
            resize(x + whole, size),
            resize(maps.flatten(0, 1), size),
            of_image.expand(-1, n, -1, -1, -1).flatten(0, 1),
            *(resize(d, size).flatten(0, 1)[:, None] for d in detail),
        ]
        return plain + self.high(torch.cat(inputs, 1)).view(b, n, *size), plain

    def _maps(
        self, f2: Tensor, f3: Tensor, f4: Tensor, shown: Tensor, prototypes: Tensor, best: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Scores of layers 4 and 3, maps [B, N, 10, h4, w4], and finer ones [B, N, h, w] each."""
        d = self.c4
        target4, ground4 = prototypes[..., :d], prototypes[..., d : 2 * d]
        target3, ground3 = prototypes[..., 2 * d :].chunk(2, -1)
        # shots that differ have a short mean of their unit prototypes: it tells how many they are, and how like; taken
        # before channels are dropped, which shortens it too
        spread = 1 - torch.linalg.vector_norm(target4, dim=2)[:, :, None, None]
        if self.training:
            kept = (torch.rand(d, device=f4.device) > _DROPPED).float()
            f4, target4, ground4 = f4 * kept[:, None, None], target4 * kept, ground4 * kept
        size = (f4.shape[2], f4.shape[3])
        inside = (pooled(shown, size) > 0.5).float()
        n4, n3 = unit(f4), unit(f3)
        target, ground = cosines(n4, target4), cosines(n4, ground4)
        m4, m3 = margins(n4, target4, ground4), margins(n3, target3, ground3)
        coarse = resize(m3, size)
        score = m4 + self.fine * coarse
        own = score
        # prototypes again, from the query's own most certain places beside the support's
        for k in range(_ROUNDS):
            first, second = self._own(n4, self.sharp[k] * (own - self.threshold), inside)
            own = margins(n4, first + unit(target4, 2), second + unit(ground4, 2)) + self.fine * coarse
        detail = [8 * (m3 - 0.02)]
        for x, pair in ((n3, (target3, ground3)), (unit(f2), None)):
            grid = (x.shape[2], x.shape[3])
            decision = self.sharp[-1] * (resize(own, grid) - self.threshold)
            first, second = self._own(x, decision, pooled(shown, grid))
            if pair is not None:
                detail.append(8 * margins(x, first + unit(pair[0], 2), second + unit(pair[1], 2)))
            detail.append(4 * margins(x, first, second))
        mean = (score * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
        maps = [
            8 * (score - self.threshold),
            8 * (score - mean),
            8 * (own - self.threshold),
            4 * coarse,
            2 * (target - 0.5),
            2 * (ground - 0.5),
            2 * (min_max(score, inside) - 0.5),
            2 * (min_max(best, inside) - 0.5),
            4 * (best - 0.6),
            10 * spread.expand_as(score),
        ]
        return m4, m3, torch.stack(maps, 2) * inside[:, :, None], detail

    @staticmethod
    def _own(x: Tensor, logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Unit prototypes [B, N, D] of what a query's soft decision takes for target and for background."""
        target, ground = torch.sigmoid(logits) * inside, torch.sigmoid(-logits) * inside
        return unit(weighted_mean(x, target.square()), 2), unit(weighted_mean(x, ground.square()), 2)


class Refiner(FewShotNetwork):
    """The training graph; `ntre_deploy.export.refiner` is the deployed one."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__(config)
        self.config: RefinerConfig = config
        self.corrector = Corrector(self.backbone.channels, config)
        self.bias = nn.Parameter(torch.zeros(2))
        self.adapter = Adapter(self.key_channels, config.adapter) if config.adapter else None

    @property
    def prototype_channels(self) -> int:
        """Target's and background's, of layers 4 and 3."""
        return 2 * (self.backbone.channels[2] + self.backbone.channels[1])

    def support_features(self, image: Tensor, mask: Tensor) -> Features:
        """As in `query_features`: the background's prototype needs what lies outside the mask."""
        return self.query_features(image)

    def as_support(self, features: Features, mask: Tensor) -> Features:
        """The features as they are, for the same reason; see `FewShotNetwork.as_support`."""
        return features

    def encode_query(self, image: Tensor | Features) -> Query:
        """See `FewShotNetwork.encode_query`."""
        features = adapted(self.adapter, self.as_features(image))
        return Query(features.f3, features.f4, features)

    def encode_support(self, image: Tensor | Features, mask: Tensor) -> Support:
        """See `FewShotNetwork.encode_support`."""
        features = adapted(self.adapter, self.as_features(image))
        target, background = support_masks(features, mask)
        prototype = support_prototypes([features.f4, features.f3], target, background)
        return Support(features.f3, prototype, support_keys(features.f4, target))

    def decode(self, query: Query, supports: list[Support]) -> Prediction:
        """See `FewShotNetwork.decode`; the plain score is among the initial logits, and is learned beside the other."""
        prototype = torch.stack([s.prototype for s in supports]).mean(0)
        best = torch.stack([best_cosine(query.f4, s.keys) for s in supports]).mean(0)
        assert query.whole is not None
        f2, f3, f4, shown = query.whole
        margin, plain = self.corrector(f2, f3, f4, shown, prototype[:, None], best)
        return Prediction(
            logits=two_class(margin) + self.bias[None, :, None, None],
            prior=best,
            query=query,
            prototype=prototype,
            supports=supports,
            inner_logits=[two_class(plain)] if self.training else [],
        )

    @property
    def rates(self) -> dict[str, float]:
        """Scale and sharpness lie around 20, the threshold around 0.01."""
        return {"corrector.scale": 50, "corrector.sharp": 50, "corrector.threshold": 0.1, "bias": 0}

    @property
    def final_bias(self) -> Tensor:
        """See `FewShotNetwork.final_bias`."""
        return self.bias

    def decisions(self, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """The final logits [B, 2, h, w] alone."""
        return [(prediction.logits, self.bias)]

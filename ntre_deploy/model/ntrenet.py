"""NTRENet (Liu et al., CVPR 2022), section 3; equation numbers stand beside the lines.

B is the batch, K the shots, C the head width, D the layer-4 channels, h x w the feature size, b a pyramid bin.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.model.blocks import F3x3, classifier, features, merge
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.matching import expand_as, masked_average, prior_mask, resize
from ntre_deploy.model.network import Features, FewShotNetwork, Prediction, Query, Support, target_at


class BGMM(nn.Module):
    """BG mining module: a learned prototype P_BG finds the background of any image (section 3.2)."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__()
        c = config.width
        shape = (1, config.bg_channels, 1, 1)
        self.prototype = nn.Parameter(torch.zeros(shape) if config.bg_init == "zeros" else torch.randn(shape))
        self.merge = merge(c + config.bg_channels, c, dropout=0.5)
        self.f3x3 = features(c, config.f3x3)
        self.classifier = classifier(c, config.f3x3)

    def forward(self, feature: Tensor) -> Tensor:
        """[B, C, h, w] -> logits [B, 2, h, w]; class 1 is background (eq. 1 for the query, eq. 2 for a support)."""
        prototype = expand_as(self.prototype.flatten(1), feature)
        x = self.merge(torch.cat([feature, prototype], 1))
        logits: Tensor = self.classifier(self.f3x3(x))
        return logits


class Matching(nn.Module):
    """Target matching: the query meets the support prototype and the prior (eq. 5 and 6)."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__()
        c = config.width
        self.merge = merge(2 * c + 1, c)
        self.f3x3 = features(c, config.f3x3)

    def forward(self, x: Tensor, prototype: Tensor, prior: Tensor) -> Tensor:
        """x [B, C, b, b], prototype [B, C], prior [B, 1, h4, w4] -> [B, C, b, b]."""
        size = (x.shape[2], x.shape[3])
        x = self.merge(torch.cat([x, expand_as(prototype, x), resize(prior, size)], 1))
        y: Tensor = self.f3x3(x)
        return y


class Stage(nn.Module):
    """BGEM, matching and DOEM in a row: what is not the target leaves the query feature (sections 3.3, 3.4)."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__()
        c = config.width
        self.masked_mean = config.do_prototype == "masked_mean"
        self.area_epsilon = config.area_epsilon
        self.bgem = merge(c + config.bg_channels, c) if config.bgem else None
        self.matching = Matching(config)
        self.initial = classifier(c, config.f3x3) if config.doem else None
        self.doem = merge(2 * c, c) if config.doem else None

    def forward(self, q: Tensor, prediction: Prediction, bg_prototype: Tensor | None) -> Tensor:
        """q [B, C, b, b] -> the query feature without BG and DO, [B, C, b, b]; notes eq. 6-8 in `prediction`."""
        x: Tensor = q
        if self.bgem is not None and bg_prototype is not None:
            x = self.bgem(torch.cat([x, expand_as(bg_prototype, x)], 1))  # eq. 4
        x = self.matching(x, prediction.prototype, prediction.prior)
        if self.initial is None or self.doem is None or prediction.bg_logits is None:
            return x
        initial = self.initial(x)  # eq. 6
        size = (q.shape[2], q.shape[3])
        background = resize(prediction.bg_logits, size).argmax(1, keepdim=True)
        do_mask = F.relu(1 - background - initial.argmax(1, keepdim=True)).to(q.dtype)  # eq. 7
        if self.masked_mean:
            do_prototype = masked_average(q, do_mask, self.area_epsilon)  # eq. 8
        else:
            do_prototype = (q * do_mask).mean((2, 3))
        prediction.initial_logits.append(initial)
        prediction.do_masks.append(do_mask)
        prediction.do_prototypes.append(do_prototype)
        y: Tensor = self.doem(torch.cat([x, expand_as(do_prototype, x)], 1))  # eq. 9
        return y


class FEM(nn.Module):
    """Feature enrichment over a pyramid of bins (PFENet, section 3.3): each scale adds the one before it."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__()
        c, n = config.width, len(config.bins)
        self.alpha = nn.ModuleList(merge(2 * c, c) for _ in range(n - 1))
        self.beta = nn.ModuleList(F3x3(c) for _ in range(n))
        self.inner = nn.ModuleList(classifier(c) for _ in range(n))

    def forward(self, index: int, x: Tensor, previous: Tensor | None) -> Tensor:
        """x [B, C, b, b] of bin `index`, the previous bin's result [B, C, h, w] -> [B, C, b, b]."""
        if previous is not None:
            before = resize(previous, (x.shape[2], x.shape[3]))
            x = self.alpha[index - 1](torch.cat([x, before], 1)) + x
        y: Tensor = self.beta[index](x)
        return y


class Head(nn.Module):
    """The pyramid's scales to logits."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__()
        self.merge = merge(config.width * len(config.bins), config.width)
        self.f3x3 = F3x3(config.width)
        self.classifier = classifier(config.width)

    def forward(self, scales: list[Tensor]) -> Tensor:
        """[B, C, h, w] for each bin -> logits [B, 2, h, w]."""
        logits: Tensor = self.classifier(self.f3x3(self.merge(torch.cat(scales, 1))))
        return logits


class NTRENet(FewShotNetwork):
    """The training graph; `ntre_deploy.export` rewrites it for deployment."""

    def __init__(self, config: NTRENetConfig) -> None:
        super().__init__(config)
        self.config: NTRENetConfig = config
        c2, c3, _ = self.backbone.channels
        self.down_query = merge(c2 + c3, config.width, dropout=0.5)
        self.down_support = merge(c2 + c3, config.width, dropout=0.5)
        self.bgmm = BGMM(config) if config.uses_bg else None
        stages = len(config.bins) if config.elimination == "per_bin" else 1
        self.stages = nn.ModuleList(Stage(config) for _ in range(stages))
        self.fem = FEM(config)
        self.head = Head(config)

    @property
    def prototype_channels(self) -> int:
        """The head's width."""
        return self.config.width

    def encode_query(self, image: Tensor | Features) -> Query:
        """Normalised image [B, 3, H, W], or its `query_features` -> query features."""
        f2, f3, f4, _ = self.as_features(image)
        feature = self.down_query(torch.cat([f3, resize(f2, (f3.shape[2], f3.shape[3]))], 1))
        return Query(feature, f4)

    def encode_support(self, image: Tensor | Features, mask: Tensor) -> Support:
        """Normalised image [B, 3, H, W], or `support_features`, and mask [B, H, W] (1 is the target) -> one shot's."""
        f2, f3, f4, _ = image if isinstance(image, Features) else self.support_features(image, mask)
        target = target_at(mask, f3)
        feature = self.down_support(torch.cat([f3, resize(f2, (f3.shape[2], f3.shape[3]))], 1))
        prototype = masked_average(feature, target, self.config.area_epsilon)
        return Support(feature, prototype, f4 * resize(target, (f4.shape[2], f4.shape[3])))

    def decode(self, query: Query, supports: list[Support]) -> Prediction:
        """Segment the query with K shots: prototypes and priors are averaged over the shots."""
        q = query.feature
        prediction = Prediction(
            logits=q.new_empty(0),
            prior=torch.stack([prior_mask(query.f4, s.keys) for s in supports]).mean(0),
            query=query,
            prototype=torch.stack([s.prototype for s in supports]).mean(0),
            supports=supports,
        )
        bg_prototype = None
        if self.bgmm is not None:
            bg_prototype = self.bgmm.prototype.flatten(1)  # [1, C_BG]
            prediction.bg_logits = self.bgmm(q)
            if self.training:
                prediction.support_bg_logits = [self.bgmm(s.feature) for s in supports]
        once = None
        if self.config.elimination == "once":
            once = self.stages[0](q, prediction, bg_prototype)
        scales: list[Tensor] = []
        for i, b in enumerate(self.config.bins):
            if once is None:
                x = self.stages[i](F.adaptive_avg_pool2d(q, b), prediction, bg_prototype)
            else:
                x = F.adaptive_avg_pool2d(once, b)
            x = self.fem(i, x, scales[-1] if scales else None)
            if self.training:
                prediction.inner_logits.append(self.fem.inner[i](x))
            scales.append(resize(x, (q.shape[2], q.shape[3])))
        prediction.logits = self.head(scales)
        return prediction

    @property
    def final_bias(self) -> Tensor:
        """The bias [2] of the head's classifier."""
        return _last_bias(self.head.classifier)

    def decisions(self, prediction: Prediction) -> list[tuple[Tensor, Tensor]]:
        """Final, BG and initial logits [B, 2, h, w], each with the bias [2] of its classifier."""
        pairs = [(prediction.logits, self.final_bias)]
        if self.bgmm is not None and prediction.bg_logits is not None:
            pairs.append((prediction.bg_logits, _last_bias(self.bgmm.classifier)))
        for stage, logits in zip(self.stages, prediction.initial_logits, strict=False):
            assert isinstance(stage, Stage)
            assert stage.initial is not None
            pairs.append((logits, _last_bias(stage.initial)))
        return pairs


def _last_bias(layers: nn.Sequential) -> Tensor:
    bias = layers[-1].bias
    assert isinstance(bias, Tensor)
    return bias

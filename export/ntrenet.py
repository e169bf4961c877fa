"""The deployed NTRENet: `SupportGraph` once per annotated image, `QueryGraph` for every image after that.

`dtype` is the precision of the heavy parts; what breaks in 16 bits stays in float32 and is cast at its borders.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.export.elimination import do_mask, do_prototype
from ntre_deploy.export.fold import constant, fold_batchnorm
from ntre_deploy.export.graphs import QueryBase, Size, SupportBase, feature_sizes
from ntre_deploy.export.linear import adaptive_pool, resize_chain
from ntre_deploy.export.prior import Prior, normalise
from ntre_deploy.export.prototypes import FoldedMerge
from ntre_deploy.model.ntrenet import NTRENet, Stage


class Margin(nn.Module):
    """A two-class classifier reduced to "class 1 - class 0" [B, 1, h, w], its last product in float32."""

    def __init__(self, classifier: nn.Sequential) -> None:
        super().__init__()
        self.conv = classifier[0]
        last = classifier[3]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        self.padding = (last.kernel_size[0] // 2, last.kernel_size[1] // 2)
        self.weight = constant(last.weight[1:] - last.weight[:1])
        self.bias = constant(last.bias[1:] - last.bias[:1])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).to(torch.float32)
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class Features(nn.Module):
    """f2 and f3 to the head's width: `down_query` or `down_support`."""

    def __init__(self, merge: nn.Sequential, f2: Size, f3: Size) -> None:
        super().__init__()
        self.resize = resize_chain(f2, f3)
        self.merge = merge

    def forward(self, f2: Tensor, f3: Tensor) -> Tensor:
        y: Tensor = self.merge(torch.cat([f3, self.resize(f2)], 1))
        return y


class SupportGraph(SupportBase):
    """One annotated image to what queries need of it."""

    def __init__(self, model: NTRENet, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        f2, f3, f4 = feature_sizes(model, input_size)
        self.area_epsilon = model.config.area_epsilon
        self.features = Features(fold_batchnorm(model.down_support), f2, f3).to(dtype)
        self.target = resize_chain((input_size, input_size), f3)
        # the training graph masks the keys with the mask of layer 3
        self.target_to_keys = resize_chain(f3, f4)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `SupportBase`."""
        f2, f3 = self.backbone.lower(image.to(self.dtype))
        target = self.target(mask)  # float32 [B, 1, h, w]
        feature = self.features(f2, f3)
        pixels = target.flatten(2)  # [B, 1, hw]
        total = pixels @ feature.flatten(2).transpose(1, 2).to(torch.float32)  # [B, 1, C]
        prototype = total[:, 0] / (pixels.sum(2) + self.area_epsilon)
        f4 = self.backbone.upper(f3 * target.to(self.dtype))
        inside = (self.target_to_keys(target).flatten(2) > 0).to(
            torch.float32
        )  # a factor in (0, 1] would cancel in the norm
        return prototype, normalise(f4.flatten(2), 1) * inside


class StageGraph(nn.Module):
    """BGEM, matching and DOEM of one stage (eq. 4 to 9) for N classes at once."""

    def __init__(
        self, stage: Stage, model: NTRENet, feature: Size, prior: Size, size: Size, dtype: torch.dtype
    ) -> None:
        super().__init__()
        config = model.config
        c = config.width
        self.width, self.dtype = c, dtype
        self.bgem: FoldedMerge | None = None
        if stage.bgem is not None and model.bgmm is not None:
            self.bgem = FoldedMerge(stage.bgem, c, config.bg_channels)
            self.bgem_bias = constant(self.bgem.bias(model.bgmm.prototype.flatten()).to(dtype))
            self.bgem.to(dtype)
        self.matching = FoldedMerge(stage.matching.merge, c, c).to(dtype)
        self.f3x3 = fold_batchnorm(stage.matching.f3x3).to(dtype)
        self.prior_to_stage = resize_chain(prior, size)
        self.initial: Margin | None = None
        if stage.initial is not None and stage.doem is not None:
            self.initial = Margin(fold_batchnorm(stage.initial))
            self.initial.conv.to(dtype)
            self.doem = FoldedMerge(stage.doem, c, c).to(dtype)
            self.background_to_stage = resize_chain(feature, size)
            self.area_epsilon = config.area_epsilon if config.do_prototype == "masked_mean" else None

    def forward(self, q: Tensor, prior_maps: Tensor, prototypes: Tensor, background: Tensor | None) -> Tensor:
        """Features without BG and DO.

        Args:
            q: [B, C, b, b]; what depends on the image alone is computed once for all classes.
            prior_maps: float32 [B, N, h4, w4].
            prototypes: [N, C].
            background: float32 margin [B, 1, h, w]; None without BGEM and DOEM.

        Returns:
            [B * N, C, b, b].
        """
        b, n = prior_maps.shape[0], prior_maps.shape[1]
        h, w = q.shape[2], q.shape[3]
        x: Tensor = q
        if self.bgem is not None:
            x = F.relu(self.bgem(x, self.bgem_bias))
        scaled = self.prior_to_stage(prior_maps).to(self.dtype)[:, :, None]  # [B, N, 1, b, b]
        x = self.matching(x)[:, None] + scaled * self.matching.rest.view(1, 1, self.width, 1, 1)
        x = x + self.matching.bias(prototypes)[None, :, :, None, None]  # [B, N, C, b, b]
        x = self.f3x3(F.relu(x).reshape(b * n, self.width, h, w))
        if self.initial is None or background is None:
            return x
        margin = self.initial(x).view(b, n, h, w)
        mask = do_mask(self.background_to_stage(background), margin)
        pooled = do_prototype(q, mask, self.area_epsilon).reshape(b * n, self.width).to(self.dtype)
        return F.relu(self.doem(x) + self.doem.bias(pooled)[:, :, None, None])


class QueryGraph(QueryBase):
    """One image against N classes: the image is encoded once, only the head runs N times."""

    def __init__(self, model: NTRENet, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        f2, f3, f4 = feature_sizes(model, input_size)
        super().__init__(model, f3, dtype)
        config = model.config
        bins = config.bins
        self.width = config.width
        self.features = Features(fold_batchnorm(model.down_query), f2, f3).to(dtype)
        self.prior = Prior()
        self.bg_merge: FoldedMerge | None = None
        if model.bgmm is not None:
            self.bg_merge = FoldedMerge(model.bgmm.merge, config.width, config.bg_channels)
            self.bg_bias = constant(self.bg_merge.bias(model.bgmm.prototype.flatten()).to(dtype))
            self.bg_merge.to(dtype)
            self.bg_f3x3 = fold_batchnorm(model.bgmm.f3x3).to(dtype)
            self.bg_margin = Margin(fold_batchnorm(model.bgmm.classifier))
            self.bg_margin.conv.to(dtype)
        self.once = config.elimination == "once"
        sizes = [f3] if self.once else [(b, b) for b in bins]
        self.stages = nn.ModuleList(
            StageGraph(stage, model, f3, f4, size, dtype) for stage, size in zip(_stages(model), sizes, strict=True)
        )
        self.pools = nn.ModuleList(adaptive_pool(f3, b) for b in bins).to(dtype)
        self.alpha = fold_batchnorm(model.fem.alpha).to(dtype)
        self.beta = fold_batchnorm(model.fem.beta).to(dtype)
        # the training graph resizes a scale to the feature's size and that again to the next bin
        self.to_next = nn.ModuleList(resize_chain((a, a), f3, (b, b)) for a, b in pairwise(bins)).to(dtype)
        self.to_feature = nn.ModuleList(resize_chain((b, b), f3) for b in bins).to(dtype)
        self.head_merge = fold_batchnorm(model.head.merge).to(dtype)
        self.head_f3x3 = fold_batchnorm(model.head.f3x3).to(dtype)
        classifier = fold_batchnorm(model.head.classifier)
        self.head_conv = classifier[0].to(dtype)
        self.head_last = classifier[3]

    def head(
        self, image: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, prototypes: Tensor, keys: Tensor, chunks: Tensor
    ) -> Tensor:
        """See `QueryBase`."""
        q = self.features(f2, f3)  # [B, C, h, w]
        b, n = q.shape[0], prototypes.shape[0]
        prior_maps = self.prior(f4, keys, chunks)  # [B, N, h4, w4]
        prototypes = prototypes.to(self.dtype)
        background: Tensor | None = None
        if self.bg_merge is not None:
            background = self.bg_margin(self.bg_f3x3(F.relu(self.bg_merge(q, self.bg_bias))))
        once = self.stages[0](q, prior_maps, prototypes, background) if self.once else None
        scales: list[Tensor] = []
        previous: Tensor | None = None
        for i, pool in enumerate(self.pools):
            if once is None:
                x = self.stages[i](pool(q), prior_maps, prototypes, background)
            else:
                x = pool(once)
            if previous is not None:
                before = self.to_next[i - 1](previous)
                x = self.alpha[i - 1](torch.cat([x, before], 1)) + x
            previous = self.beta[i](x)
            scales.append(self.to_feature[i](previous))
        z = self.head_f3x3(self.head_merge(torch.cat(scales, 1)))
        logits: Tensor = self.head_last(F.relu(self.head_conv(z)).to(torch.float32))  # [B * N, 2, h, w]
        return logits.view(b, n, 2, *self.feature)


def _stages(model: NTRENet) -> list[Stage]:
    return [stage for stage in model.stages if isinstance(stage, Stage)]

"""Rewrite 1: folding BatchNorm changes nothing but the graph."""

import pytest
import torch
from torch import nn

from ntre_deploy.export.fold import count_batchnorm, fold_batchnorm
from ntre_deploy.model.backbones import build_backbone
from ntre_deploy.model.config import NTRENetConfig


def disturb(module: nn.Module) -> None:
    """Statistics and gains as after training, so that folding them has an effect."""
    generator = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in (
                (m.running_mean, -0.2, 0.2),
                (m.running_var, 0.5, 1.5),
                (m.weight, 0.3, 0.7),
                (m.bias, -0.1, 0.1),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)


@pytest.mark.parametrize(
    ("backbone", "stem"),
    [
        ("resnet50", "deep"),
        ("resnet50", "torchvision"),
        ("vgg16_bn", "deep"),
        ("squeezenet1_1", "deep"),
        ("resnet18", "torchvision"),
        ("efficientnet_lite0", "deep"),
    ],
)
def test_a_folded_backbone_gives_the_same_features(backbone: str, stem: str) -> None:
    module = build_backbone(NTRENetConfig(backbone=backbone, stem=stem)).eval()  # type: ignore[arg-type]
    disturb(module)
    folded = fold_batchnorm(module)
    assert count_batchnorm(folded) == 0
    assert (count_batchnorm(module) > 0) == (backbone != "squeezenet1_1"), "the original keeps its layers"
    image = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        for wanted, got in zip(
            (*module.lower(image), module.upper(module.lower(image)[1])),
            (*folded.lower(image), folded.upper(folded.lower(image)[1])),
            strict=True,
        ):
            assert (wanted - got).abs().max() <= 1e-4 * wanted.abs().max()

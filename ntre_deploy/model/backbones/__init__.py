"""Backbones under the state-dict names of their ImageNet weights, dilated where few-shot segmentation wants it.

A backbone is a module with `channels`, the channels of (f2, f3, f4); `mean` and `std`, which its ImageNet weights
expect; `lower(image)`, which gives (f2, f3); and `upper(f3)`, which gives f4.  The halves are apart because support
keys run only the upper one on a masked f3.
"""

from typing import Protocol

from torch import Tensor

from ntre_deploy.model.backbones.efficientnet import EfficientNetLite0
from ntre_deploy.model.backbones.resnet import BasicBlock, Bottleneck, ResNet
from ntre_deploy.model.backbones.squeezenet import SqueezeNet
from ntre_deploy.model.backbones.vgg import VGG16BN
from ntre_deploy.model.config import ModelConfig


class BackboneModule(Protocol):
    """The two halves of a feature extractor."""

    channels: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised image [B, 3, H, W] -> f2 [B, c2, h2, w2], f3 [B, c3, h, w], no finer than f2."""
        ...

    def upper(self, f3: Tensor) -> Tensor:
        """f3 [B, c3, h, w] -> f4 [B, c4, h4, w4], non-negative, no finer than f3."""
        ...


def build_backbone(config: ModelConfig) -> ResNet | VGG16BN | SqueezeNet | EfficientNetLite0:
    """The backbone that `config` names, with random weights."""
    match config.backbone:
        case "resnet50":
            return ResNet(Bottleneck, (3, 4, 6, 3), config.stem)
        case "resnet101":
            return ResNet(Bottleneck, (3, 4, 23, 3), config.stem)
        case "resnet18":
            return ResNet(BasicBlock, (2, 2, 2, 2), "torchvision")
        case "vgg16_bn":
            return VGG16BN()
        case "squeezenet1_1":
            return SqueezeNet()
        case "efficientnet_lite0":
            return EfficientNetLite0(config.stride or 32)


__all__ = ["BackboneModule", "build_backbone"]

"""Backbones under torchvision's state-dict names, dilated to the strides that few-shot segmentation uses.

A backbone is a module with `channels`, the channels of (f2, f3, f4); `lower(image)`, which gives (f2, f3); and
`upper(f3)`, which gives f4.  The halves are apart because support keys run only the upper one on a masked f3.
"""

from typing import Protocol

from torch import Tensor

from ntre_deploy.model.backbones.resnet import ResNet
from ntre_deploy.model.backbones.squeezenet import SqueezeNet
from ntre_deploy.model.backbones.vgg import VGG16BN
from ntre_deploy.model.config import ModelConfig


class BackboneModule(Protocol):
    """The two halves of a feature extractor."""

    channels: tuple[int, int, int]

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised image [B, 3, H, W] -> f2 [B, c2, h2, w2], f3 [B, c3, h, w]."""
        ...

    def upper(self, f3: Tensor) -> Tensor:
        """f3 [B, c3, h, w] -> f4 [B, c4, h, w], non-negative."""
        ...


def build_backbone(config: ModelConfig) -> ResNet | VGG16BN | SqueezeNet:
    """The backbone that `config` names, with random weights."""
    match config.backbone:
        case "resnet50":
            return ResNet((3, 4, 6, 3), config.stem)
        case "resnet101":
            return ResNet((3, 4, 23, 3), config.stem)
        case "vgg16_bn":
            return VGG16BN()
        case "squeezenet1_1":
            return SqueezeNet()


__all__ = ["BackboneModule", "build_backbone"]

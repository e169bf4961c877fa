"""Dilated ResNets of stride 8, with the deep stem of the released code or torchvision's."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.model.config import Stem
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD


class BasicBlock(nn.Module):
    """Two 3x3 (the first with the stride, both with the dilation), and a shortcut."""

    expansion = 1

    def __init__(self, c_in: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(c_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride and the dilation), 1x1 to four times the channels, and a shortcut."""

    expansion = 4

    def __init__(self, c_in: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        c_out = self.expansion * planes
        self.conv1 = nn.Conv2d(c_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


Block = type[BasicBlock] | type[Bottleneck]


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


def _layer(block: Block, c_in: int, planes: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    first = block(c_in, planes, stride, dilation)
    return nn.Sequential(first, *(block(block.expansion * planes, planes, 1, dilation) for _ in range(1, blocks)))


class ResNet(nn.Module):
    """Layers 3 and 4 keep stride 1 and dilate by 2 and 4, so f2, f3, f4 all have stride 8."""

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, block: Block, blocks: tuple[int, int, int, int], stem: Stem) -> None:
        super().__init__()
        e = block.expansion
        self.channels = (128 * e, 256 * e, 512 * e)
        self.stem = stem
        if stem == "deep":
            # names of the semseg family's resnet*_v2 weights
            self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.conv2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(64)
            self.conv3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(128)
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _layer(block, 128 if stem == "deep" else 64, 64, blocks[0], 1, 1)
        self.layer2 = _layer(block, 64 * e, 128, blocks[1], 2, 1)
        self.layer3 = _layer(block, 128 * e, 256, blocks[2], 1, 2)
        self.layer4 = _layer(block, 256 * e, 512, blocks[3], 1, 4)

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> f2 [B, c2, H/8, W/8], f3 [B, c3, H/8, W/8]."""
        x = F.relu(self.bn1(self.conv1(image)))
        if self.stem == "deep":
            x = F.relu(self.bn2(self.conv2(x)))
            x = F.relu(self.bn3(self.conv3(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        f2 = self.layer2(self.layer1(x))
        return f2, self.layer3(f2)

    def upper(self, f3: Tensor) -> Tensor:
        """[B, c3, h, w] -> f4 [B, c4, h, w]."""
        return cast(Tensor, self.layer4(f3))

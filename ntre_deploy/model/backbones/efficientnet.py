"""EfficientNet-Lite0: the light backbone for photos, with the 'same' padding and BatchNorm of its TensorFlow original.

Source: Tan and Le, ICML 2019; the lite variants of the TPU repository (no squeeze-and-excitation, ReLU6 in place of
swish).  Widths, kernels and the names of the layers are those of the package `efficientnet_lite_pytorch`, without the
leading underscores.
"""

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# stage -> blocks, kernel, stride of the first block, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
_STEM = 32
# the block behind them, whose expansion is the last layer here
_LAST_EXPANSION = 6
# ends of the stages of stride 8 and 16 in the list of blocks
_ENDS = (5, 11)
_EPSILON, _MOMENTUM = 1e-3, 0.01
# what the original has behind the last layer here: the rest of block 15, the head and the classifier
_BEHIND = re.compile(r"_blocks\.15\._(depthwise_conv|bn1|project_conv|bn2)\..*|_(conv_head|bn1|fc)\..*")


def same_padding(side: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's 'same' padding (before, after) of one axis: ceil(side / stride) outputs.

    Symmetric at stride 1 and wherever the stride divides side - 1; else one more behind than before.
    """
    total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution of a square kernel, without bias, padded for the input that it gets."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride, dilation=dilation, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]."""
        kernel, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        (top, bottom), (left, right) = (same_padding(int(side), kernel, stride, dilation) for side in x.shape[2:])
        if top != bottom or left != right:
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, _EPSILON, _MOMENTUM)


class MBConv(nn.Module):
    """Expand by a 1x1, depthwise (with the stride and the dilation), project by a 1x1 that no ReLU follows."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.expands = expansion != 1
        # the first block of a stage changes the channels, and only that one may have a stride
        self.shortcut = c_in == c_out
        if self.expands:
            self.expand_conv = SameConv2d(c_in, inner, 1)
            self.bn0 = _norm(inner)
        self.depthwise_conv = SameConv2d(inner, inner, kernel, stride, dilation=dilation, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = SameConv2d(inner, c_out, 1)
        self.bn2 = _norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H', W']."""
        y = self.behind(self.expand(x))
        return y + x if self.shortcut else y

    def expand(self, x: Tensor) -> Tensor:
        """The first part: [B, c_in, H, W] -> [B, inner, H, W], in 0..6 where the block expands."""
        return F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x

    def behind(self, y: Tensor) -> Tensor:
        """The rest but for the shortcut: [B, inner, H, W] -> [B, c_out, H', W']."""
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        return cast(Tensor, self.bn2(self.project_conv(y)))


class Expansion(nn.Module):
    """The first part of an MBConv: a 1x1, BatchNorm and ReLU6."""

    def __init__(self, c_in: int, expansion: int) -> None:
        super().__init__()
        self.expand_conv = SameConv2d(c_in, c_in * expansion, 1)
        self.bn0 = _norm(c_in * expansion)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.bn0(self.expand_conv(x)))


class EfficientNetLite0(nn.Module):
    """f2 at stride 8; f3 and f4, the expanded features of the last block at stride 16 (or 8) and of the last of all.

    f2 is what a block projects to: linear, so of both signs.  f3 and f4 lie behind a ReLU6: where a block expands, its
    features match better than where it projects (`benchmarks/README.md`, "Photos").

    Args:
        stride: of f4 in pixels: 32 as trained, 16 or 8.  Below 32, strides become dilations of all that follows, so
            that at sizes 32k + 1 the features of stride 32 are found again among the finer ones.
    """

    channels = (40, 672, 1152)
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self, stride: int = 32) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM, 3, 2)
        self.bn0 = _norm(_STEM)
        blocks: list[nn.Module] = []
        c_in, reached, dilation = _STEM, 2, 1
        for count, kernel, step, expansion, c_out in _STAGES:
            dilates = step > 1 and reached == stride
            for index in range(count):
                first = step if index == 0 and not dilates else 1
                blocks.append(MBConv(c_in, c_out, kernel, first, dilation, expansion))
                c_in = c_out
                if index == 0 and dilates:
                    # the block that loses its stride still sees neighbours; those behind it see every second place
                    dilation *= step
            reached = reached if dilates else reached * step
        blocks.append(Expansion(c_in, _LAST_EXPANSION))
        self.blocks = nn.ModuleList(blocks)

    @staticmethod
    def from_package(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of `efficientnet_lite_pytorch` under the names here, without what lies behind f4."""
        return {re.sub(r"(^|\.)_", r"\1", name): t for name, t in tensors.items() if not _BEHIND.fullmatch(name)}

    @torch.no_grad()
    def rescale(self, f2: float) -> None:
        """Multiply layer 2 by a factor and leave layers 3 and 4 as they are, by way of the weights alone.

        No ReLU follows it, so a factor passes from the BatchNorms of its stage to the convolution that reads it; a
        power of two changes no rounding.
        """
        for index in range(_ENDS[0] - 2, _ENDS[0]):
            block, after = self.blocks[index], self.blocks[index + 1]
            assert isinstance(block, MBConv)
            assert isinstance(after, MBConv)
            block.bn2.weight.mul_(f2)
            block.bn2.bias.mul_(f2)
            after.expand_conv.weight.div_(f2)

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> f2 [B, 40, H/8, W/8], f3 [B, 672, H/16, W/16] in 0..6; f3 is at H/8, W/8 with stride 8."""
        x: Tensor = F.relu6(self.bn0(self.conv_stem(image)))
        for block in self.blocks[: _ENDS[0]]:
            x = block(x)
        f2 = x
        for block in self.blocks[_ENDS[0] : _ENDS[1]]:
            x = block(x)
        return f2, self._turn.expand(x)

    def upper(self, f3: Tensor) -> Tensor:
        """f3 [B, 672, h, w] -> f4 [B, 1152, h4, w4] in 0..6."""
        x = self._turn.behind(f3)
        for block in self.blocks[_ENDS[1] + 1 :]:
            x = block(x)
        return x

    @property
    def _turn(self) -> MBConv:
        """The block whose expanded features are layer 3: the last ones at stride 16."""
        block = self.blocks[_ENDS[1]]
        assert isinstance(block, MBConv)
        return block

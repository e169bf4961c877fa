"""SqueezeNet 1.1 kept at stride 8: the light backbone for CPUs and small devices."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD


class Fire(nn.Module):
    """Squeeze by a 1x1, expand by a 1x1 and a 3x3 side by side."""

    def __init__(self, c_in: int, squeeze: int, expand: int, dilation: int = 1) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """torchvision's `squeezenet1_1().features` with its names, and two changes.

    The first convolution and the pools are padded, so that feature k sits at pixel 8k of an 8k + 1 input as in the
    other backbones; the third pool keeps stride 1 and what follows dilates by 2.
    """

    channels = (256, 384, 512)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, padding=1),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 1, padding=1),
            Fire(256, 48, 192, dilation=2),
            Fire(384, 48, 192, dilation=2),
            Fire(384, 64, 256, dilation=2),
            Fire(512, 64, 256, dilation=2),
        )

    @torch.no_grad()
    def rescale(self, f2: float, f3: float) -> None:
        """Multiply layers 2 and 3 by positive factors and leave layer 4 as it is, by way of the weights alone.

        Between rectified convolutions and pools a factor passes through; powers of two change no rounding.
        """
        for factor, last, following in ((f2, 7, 9), (f3, 10, 11)):
            fire, after = self.features[last], self.features[following]
            assert isinstance(fire, Fire)
            assert isinstance(after, Fire)
            for parameter in (*fire.expand1x1.parameters(), *fire.expand3x3.parameters()):
                parameter.mul_(factor)
            after.squeeze.weight /= factor

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> f2 [B, 256, H/8, W/8], f3 [B, 384, H/8, W/8]."""
        f2 = self.features[:8](image)
        return f2, self.features[8:11](f2)

    def upper(self, f3: Tensor) -> Tensor:
        """[B, 384, h, w] -> f4 [B, 512, h, w]."""
        x: Tensor = self.features[11:](f3)
        return x

"""VGG-16 with BatchNorm without its last pool: f2 at stride 8, f3 and f4 at stride 16."""

from torch import Tensor, nn

from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD

# channels of the 3x3 convolutions; "M" is a 2x2 max-pool
_PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
# ends of layer2, layer3 and layer4 in torchvision's `features` list
_ENDS = (24, 34, 43)


class VGG16BN(nn.Module):
    """torchvision's `vgg16_bn().features`, with ceil_mode pools so that 8k + 1 inputs keep their last column."""

    channels = (256, 512, 512)
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        c_in = 3
        for step in _PLAN:
            if isinstance(step, int):
                modules += [nn.Conv2d(c_in, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
                c_in = step
            else:
                modules.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = nn.Sequential(*modules)

    def lower(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> f2 [B, 256, H/8, W/8], f3 [B, 512, H/16, W/16]."""
        f2 = self.features[: _ENDS[0]](image)
        return f2, self.features[_ENDS[0] : _ENDS[1]](f2)

    def upper(self, f3: Tensor) -> Tensor:
        """[B, 512, h, w] -> f4 [B, 512, h, w]."""
        x: Tensor = self.features[_ENDS[1] : _ENDS[2]](f3)
        return x

"""The few kinds of layers that NTRENet's head is built from."""

from torch import Tensor, nn

from ntre_deploy.model.config import F3x3Form


def merge(c_in: int, c_out: int, dropout: float = 0.0) -> nn.Sequential:
    """F_1x1 of the paper: 1x1 convolution without bias and ReLU, on concatenated features and prototypes."""
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, 1, bias=False), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


class F3x3(nn.Sequential):
    """Two 3x3 convolutions with ReLU, and the input added (released code, after PFENet)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y + x


def features(channels: int, form: F3x3Form) -> nn.Module:
    """What stands between F_1x1 and the prediction of eq. 1, 2, 6: the released pair; nothing in the paper's form."""
    return F3x3(channels) if form == "residual" else nn.Identity()


def classifier(channels: int, form: F3x3Form = "residual") -> nn.Sequential:
    """3x3, ReLU, dropout and a 1x1 to two logits [B, 2, h, w]; class 1 is the region that is looked for.

    In the paper's `plain` form the last one is 3x3 too: together they are its F_3x3.
    """
    kernel = 1 if form == "residual" else 3
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, 2, kernel, padding=kernel // 2),
    )

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
    """F_3x3 of eq. 1, 2, 6: two 3x3 convolutions with ReLU; `residual` adds the input, as in the released code."""

    def __init__(self, channels: int, form: F3x3Form = "residual") -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )
        self.residual = form == "residual"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y + x if self.residual else y


def classifier(channels: int) -> nn.Sequential:
    """3x3, ReLU, dropout and a 1x1 to two logits [B, 2, h, w]; class 1 is the region that is looked for."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, 2, 1),
    )

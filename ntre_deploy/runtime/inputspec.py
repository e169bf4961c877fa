"""What a network takes, as a checkpoint and a bundle tell it."""

from dataclasses import dataclass

# of torchvision's ImageNet weights and those of the released code, in units of 0..255 RGB
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# beyond what any machine can train; keeps a typing error from asking for all of the memory
MAX_INPUT_SIZE = 4097


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: RGB, (pixel - mean) / std with pixels in 0..255, a square of `size` pixels."""

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def fill(self) -> tuple[int, int, int]:
        """RGB of the mean colour to the nearest level."""
        r, g, b = (min(max(round(level), 0), 255) for level in self.mean)
        return r, g, b

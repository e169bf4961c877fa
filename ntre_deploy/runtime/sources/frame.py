"""`Frame`: one picture of a source, and when it was seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        pixels: uint8 RGB [H, W, 3], upright; of a photo that was read smaller, those that were read.
        name: of the source: a file's name, or a camera or stream as it was given, without a password.
        path: of the file; None of cameras and streams.
        index: of the picture in its source, from 0 on; 0 of a photo.
        seconds: since the source's first picture, as the file times it or as it came; 0 of a photo.
        size: (H, W) of the picture itself, which a photo's `pixels` may be a smaller reading of.
    """

    pixels: Pixels
    name: str
    path: Path | None
    index: int
    seconds: float
    size: tuple[int, int]

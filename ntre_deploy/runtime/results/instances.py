"""Connected regions of a label map, each an instance of its class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.runtime.results.polygons import Polygon, trace

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Instance:
    """Pixels of one class that are connected by their edges, so that they are one polygon.

    Attributes:
        label: number of the class in the label map, from 1 on.
        name: of the class.
        box: x, y, width, height in pixels.
        area: in pixels.
        mask: bool [height, width], inside the box.
    """

    label: int
    name: str
    box: tuple[int, int, int, int]
    area: int
    mask: NDArray[np.bool_]
    _clear: Callable[[], Float | None] = field(repr=False)

    @cached_property
    def score(self) -> float | None:
        """Mean probability of the class over the pixels, in [0, 1]; None for a label map without logits."""
        clear = self._clear()
        if clear is None:
            return None
        x, y, width, height = self.box
        mean = float(clear[y : y + height, x : x + width][self.mask].mean(dtype=np.float64))
        return min(mean, 1.0)

    @cached_property
    def polygon(self) -> Polygon:
        """The outline with holes, in the image's coordinates; rings as in `Polygon`."""
        return trace(self.mask, *self.box[:2])

    def full_mask(self, height: int, width: int) -> Pixels:
        """uint8 [height, width] of the image's size, 1 on the instance."""
        full = np.zeros((height, width), np.uint8)
        x, y, w, h = self.box
        full[y : y + h, x : x + w] = self.mask
        return full


def find_instances(
    labels: Pixels,
    names: Sequence[str],
    boxes: Sequence[tuple[int, int, int, int]],
    clear: Callable[[], Float | None],
) -> list[Instance]:
    """The connected regions of each class, the largest first.

    Args:
        labels: uint8 [H, W].
        names: label n is the n-th.
        boxes: around all pixels of each class; of no size where it has none.
        clear: gives the map [H, W] of the probabilities of `labels`, or None.
    """
    found = []
    for label, (name, (left, top, width, height)) in enumerate(zip(names, boxes, strict=True), 1):
        if width == 0:
            continue
        own = labels[top : top + height, left : left + width] == label
        # by edges alone: regions that touch at a corner are no polygon together
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(own.view(np.uint8), connectivity=4)
        for number in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable"):
            x, y, w, h, area = (int(value) for value in stats[number])
            mask = numbers[y : y + h, x : x + w] == number
            found.append(Instance(label, name, (left + x, top + y, w, h), area, mask, clear))
    return found

"""The protocol's metrics, once for evaluation and bench; needs NumPy only.

mIoU is the mean over classes of (sum of intersections / sum of unions) over a class's episodes, foreground only; FB-IoU
the mean of foreground and background IoU over everything.  Query pixels labelled 255 do not count.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.runtime.masks import IGNORE

Pixels = NDArray[np.uint8]


@dataclass
class Confusion:
    """Pixel counts of one class against the rest."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def add(self, predicted: Pixels, truth: Pixels) -> None:
        """Count one query: both uint8 [H, W] with 1 on the class; truth 255 is left out."""
        valid = truth != IGNORE
        p, t = (predicted == 1)[valid], (truth == 1)[valid]
        both = int(np.count_nonzero(p & t))
        positives, targets = int(np.count_nonzero(p)), int(np.count_nonzero(t))
        self.add_counts(both, positives - both, targets - both, p.size - positives - targets + both)

    def add_counts(self, true_positive: int, false_positive: int, false_negative: int, true_negative: int) -> None:
        """Count pixels that were counted elsewhere."""
        self.true_positive += true_positive
        self.false_positive += false_positive
        self.false_negative += false_negative
        self.true_negative += true_negative

    @property
    def foreground_iou(self) -> float:
        """TP / (TP + FP + FN); 1 where there is neither target nor prediction."""
        union = self.true_positive + self.false_positive + self.false_negative
        return self.true_positive / union if union else 1.0

    @property
    def background_iou(self) -> float:
        """TN / (TN + FP + FN); 1 where everything is foreground in both."""
        union = self.true_negative + self.false_positive + self.false_negative
        return self.true_negative / union if union else 1.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP); 0 without predictions."""
        predicted = self.true_positive + self.false_positive
        return self.true_positive / predicted if predicted else 0.0


@dataclass
class Score:
    """Metrics of a run over episodes, all in [0, 1]."""

    classes: dict[int, Confusion] = field(default_factory=lambda: defaultdict(Confusion))

    def add(self, class_id: int, predicted: Pixels, truth: Pixels) -> None:
        """Count one episode's query; arrays as in `Confusion.add`."""
        self.classes[class_id].add(predicted, truth)

    @property
    def class_iou(self) -> dict[int, float]:
        """Foreground IoU of every class."""
        return {c: confusion.foreground_iou for c, confusion in sorted(self.classes.items())}

    @property
    def miou(self) -> float:
        """Mean of the classes' foreground IoU; 0 without episodes."""
        return float(np.mean(list(self.class_iou.values()))) if self.classes else 0.0

    @property
    def fb_iou(self) -> float:
        """Mean of foreground and background IoU over all classes together."""
        total = self._total()
        return (total.foreground_iou + total.background_iou) / 2

    @property
    def precision(self) -> float:
        """Precision over all classes together."""
        return self._total().precision

    def _total(self) -> Confusion:
        total = Confusion()
        for c in self.classes.values():
            total.true_positive += c.true_positive
            total.false_positive += c.false_positive
            total.false_negative += c.false_negative
            total.true_negative += c.true_negative
        return total

"""Few-shot evaluation: anything that segments a query, over episodes, with intervals; needs no torch.

The intervals are bootstrap percentiles over episodes.  mIoU is a mean over classes, so episodes are drawn with
replacement inside each class (Davison & Hinkley, Bootstrap Methods, 1997, section 3.2, stratified): the classes and
their numbers of episodes stay as they are.  An interval therefore speaks of other episodes of the same classes and the
same weights, and of neither other classes nor another training seed.  A class with few episodes adds too little to it;
one with a single episode adds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import InputError
from ntre_deploy.training.metrics import Confusion, Score

Float = NDArray[np.float64]
Counts = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Shots = Sequence[tuple[Pixels, Pixels]]

# (query uint8 [H, W, 3], K pairs of image and mask with 1 on the target) -> uint8 labels [H, W] with 1 on the class
Run = Callable[[Pixels, Shots], Pixels]

LEVEL = 0.95
RESAMPLES = 2000
# episodes that one resampling step gathers at once: keeps its memory to some tens of MB
_GATHERED = 1_000_000


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Confidence intervals of `Score`'s metrics; `classes` has the foreground IoU of each class."""

    miou: Interval
    fb_iou: Interval
    precision: Interval
    classes: dict[int, Interval]


@dataclass(frozen=True)
class Stages:
    """What the network decides on the way, as uint8 masks [H, W] of 0 and 1; None where the model lacks the module.

    Attributes:
        background: the BG map (eq. 1).
        distracting: the DO map (eq. 7) of the largest pyramid bin.
        initial: the initial prediction (eq. 6) of the largest pyramid bin.
    """

    background: Pixels | None
    distracting: Pixels | None
    initial: Pixels | None


@dataclass(frozen=True)
class Picture:
    """One episode to look at: uint8 RGB images [H, W, 3] and uint8 masks [H, W]; `stages` where they are known."""

    episode: Episode
    support: Pixels
    support_mask: Pixels
    query: Pixels
    truth: Pixels
    labels: Pixels
    stages: Stages | None


@dataclass(frozen=True)
class Evaluation:
    """Pixel counts of every episode, and what follows from them.

    Attributes:
        classes: int64 [E], class id of each episode.
        counts: int64 [E, 4], true positive, false positive, false negative and true negative pixels of each query.
        names: name of every class that occurs.
        pictures: the first episodes, as many as were asked for.
    """

    classes: Counts
    counts: Counts
    names: dict[int, str]
    pictures: list[Picture] = field(default_factory=list)

    @cached_property
    def score(self) -> Score:
        """The protocol's metrics over all episodes."""
        score = Score()
        for c in np.unique(self.classes):
            score.classes[int(c)] = Confusion(*(int(n) for n in self.counts[self.classes == c].sum(axis=0)))
        return score

    @property
    def miou(self) -> float:
        """Mean of the classes' foreground IoU."""
        return self.score.miou

    @property
    def fb_iou(self) -> float:
        """Mean of foreground and background IoU over everything."""
        return self.score.fb_iou

    @property
    def precision(self) -> float:
        """Precision over everything."""
        return self.score.precision

    @property
    def episodes_of(self) -> dict[int, int]:
        """Number of episodes of each class."""
        ids, numbers = np.unique(self.classes, return_counts=True)
        return {int(c): int(n) for c, n in zip(ids, numbers, strict=True)}

    @property
    def all_foreground(self) -> float:
        """mIoU of calling every pixel of these queries the target: what a model must beat."""
        totals = [counts.sum(axis=0) for counts in (self.counts[self.classes == c] for c in np.unique(self.classes))]
        return float(np.mean([_ratio(t[0] + t[2], t.sum(), 1.0) for t in totals]))

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> Intervals:
        """Percentile intervals of the stratified bootstrap; see the module for what they tell."""
        sums = resample(self.classes, self.counts, resamples=resamples, seed=seed)
        return intervals_of(sums, level)


def evaluate(
    run: Run,
    dataset: Dataset,
    episodes: EpisodeSet,
    progress: Callable[[], None] = lambda: None,
    *,
    pictures: int = 0,
    explain: Callable[[Pixels, Shots], Stages] | None = None,
) -> Evaluation:
    """Run every episode and count its query's pixels.

    Args:
        run: segments a query by its supports, as `Run` says; the labels have the query's own size [H, W].
        dataset: where the episodes' images and masks are.
        progress: called after every episode.
        pictures: number of episodes, from the first on, that are kept to be looked at.
        explain: gives the intermediate maps of an episode that is kept.

    Raises:
        InputError: no episodes, an image or mask that cannot be read or does not fit, a support without its target.
        ValueError: `run` gave no uint8 array of the query's size.
    """
    if not episodes.episodes:
        raise InputError("There are no episodes to evaluate; draw at least one.")
    counts = np.zeros((len(episodes.episodes), 4), np.int64)
    kept: list[Picture] = []
    for number, episode in enumerate(episodes.episodes):
        shots = [read_pair(dataset, image_id, episode.class_id) for image_id in episode.supports]
        for image_id, (_, mask) in zip(episode.supports, shots, strict=True):
            if not (mask == 1).any():
                raise InputError(
                    f"Episode {number + 1}: support {image_id} of {dataset.name} holds no pixel of "
                    f"'{episode.class_name}'; draw the episodes again."
                )
        query, truth = read_pair(dataset, episode.query, episode.class_id)
        labels = run(query, shots)
        if labels.shape != truth.shape or labels.dtype != np.uint8:
            raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}, not uint8 {list(truth.shape)}")
        confusion = Confusion()
        confusion.add(labels, truth)
        counts[number] = (
            confusion.true_positive,
            confusion.false_positive,
            confusion.false_negative,
            confusion.true_negative,
        )
        if len(kept) < pictures:
            stages = explain(query, shots) if explain is not None else None
            kept.append(Picture(episode, *shots[0], query, truth, labels, stages))
        progress()
    names = {e.class_id: e.class_name for e in episodes.episodes}
    return Evaluation(np.array([e.class_id for e in episodes.episodes], np.int64), counts, names, kept)


def resample(classes: Counts, counts: Counts, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[int, Counts]:
    """Sums of pixel counts over episodes drawn again with replacement inside each class.

    A class's draws depend on the seed, its id and its number of episodes alone: two models on the same episodes get
    the same draws, so that differences between them may be taken resample by resample (a paired bootstrap).

    Args:
        classes: int64 [E], class id of each episode.
        counts: int64 [E, 4] as in `Evaluation`.

    Returns:
        int64 [resamples, 4] of each class.
    """
    sums: dict[int, Counts] = {}
    for c in np.unique(classes):
        own = counts[classes == c]
        rng = np.random.default_rng(np.random.SeedSequence([seed, int(c)]))
        step = max(1, _GATHERED // len(own))
        parts = []
        for start in range(0, resamples, step):
            drawn = rng.integers(len(own), size=(min(step, resamples - start), len(own)))
            parts.append(own[drawn].sum(axis=1))
        sums[int(c)] = np.concatenate(parts)
    return sums


def intervals_of(sums: Mapping[int, Counts], level: float = LEVEL) -> Intervals:
    """Percentile intervals of the metrics over the resamples [R, 4] of each class."""
    class_iou = {c: _foreground_iou(s) for c, s in sums.items()}
    total = np.sum(list(sums.values()), axis=0)
    fb_iou = (_foreground_iou(total) + _background_iou(total)) / 2
    precision = _ratio(total[:, 0], total[:, 0] + total[:, 1], 0.0)
    return Intervals(
        miou=_percentiles(np.mean(list(class_iou.values()), axis=0), level),
        fb_iou=_percentiles(fb_iou, level),
        precision=_percentiles(precision, level),
        classes={c: _percentiles(values, level) for c, values in class_iou.items()},
    )


def difference_of(sums: Mapping[int, Counts], others: Mapping[int, Counts], level: float = LEVEL) -> Interval:
    """Percentile interval of the difference of two mIoUs, resample by resample: both must have the same draws.

    The sums of each class are int64 [resamples, 4], as of `resample`.
    """
    one, other = (np.mean([_foreground_iou(s) for s in side.values()], axis=0) for side in (sums, others))
    return _percentiles(one - other, level)


def read_pair(dataset: Dataset, image_id: str, class_id: int) -> tuple[Pixels, Pixels]:
    """An image uint8 [H, W, 3] and its mask of a class, uint8 [H, W].

    Raises:
        InputError: one of them cannot be read, or they have different sizes.
    """
    image, mask = dataset.image(image_id), dataset.mask(image_id, class_id)
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"Image {image_id} of {dataset.name} has {image.shape[1]} x {image.shape[0]} pixels and its mask "
            f"{mask.shape[1]} x {mask.shape[0]}; they must be equal."
        )
    return image, mask


# the same conventions for empty unions as in `Confusion`
def _foreground_iou(sums: Counts) -> Float:
    return _ratio(sums[:, 0], sums[:, 0] + sums[:, 1] + sums[:, 2], 1.0)


def _background_iou(sums: Counts) -> Float:
    return _ratio(sums[:, 3], sums[:, 3] + sums[:, 1] + sums[:, 2], 1.0)


def _ratio(part: Counts, whole: Counts, empty: float) -> Float:
    ratio: Float = np.divide(part, whole, out=np.full(np.shape(whole), empty), where=np.asarray(whole) > 0)
    return ratio


def _percentiles(values: Float, level: float) -> Interval:
    tail = 50 * (1 - level)
    low, high = np.percentile(values, (tail, 100 - tail))
    return Interval(float(low), float(high))

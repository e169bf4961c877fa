"""N-way evaluation: N support sets and one label map for each query, beside every class alone on the same query.

Each class of an episode gives a row of pixel counts, whether the query holds it or not, and so the metrics and their
bootstrap are those of one-way evaluation (`ntre_deploy.training.evaluator`).  The one-way rows are of the same classes
and queries: a class that a query lacks costs both what is falsely taken for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.ways import WaysEpisode, WaysSet, ways_truth
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.training.evaluator import (
    LEVEL,
    RESAMPLES,
    Counts,
    Evaluation,
    Interval,
    Pixels,
    Shots,
    difference_of,
    read_pair,
    resample,
)
from ntre_deploy.training.metrics import Confusion

# (query uint8 [H, W, 3], for each of N ways its K pairs of image and mask) -> uint8 labels [H, W] of 0 to N, and for
# each way the uint8 mask [H, W] that it gives alone
WaysRun = Callable[[Pixels, Sequence[Shots]], tuple[Pixels, Sequence[Pixels]]]

# one-way IoU from which on a class counts as found, and the part of it below which it has vanished among others
FOUND = 0.1
VANISHED = 1 / 3


@dataclass(frozen=True)
class Vanished:
    """Classes that are found alone and lost among others.

    Attributes:
        found, vanished: classes of queries, each counted in each query that holds it.
        found_queries, queries: queries with a class that is found alone, and those where one of them vanished.
    """

    found: int
    vanished: int
    found_queries: int
    queries: int

    @property
    def share(self) -> float:
        """Of the queries with a class that is found alone, those where one vanished; 0 without any."""
        return self.queries / self.found_queries if self.found_queries else 0.0


@dataclass(frozen=True)
class WaysPicture:
    """One episode to look at: for each way its first support, uint8 images [H, W, 3] and masks [H, W]."""

    episode: WaysEpisode
    supports: Sequence[tuple[Pixels, Pixels]]
    query: Pixels
    truth: Pixels
    labels: Pixels


@dataclass(frozen=True)
class WaysEvaluation:
    """What N-way evaluation counted.

    Attributes:
        joint: a row for each class of each episode, in the order of episodes and ways: the label map's.
        alone: the same rows of each class's mask alone.
        confusion: int64 [E, N + 1, N + 1], pixels of each query; rows are the truth, columns what was predicted, and 0
            is the background.
    """

    joint: Evaluation
    alone: Evaluation
    confusion: Counts
    pictures: list[WaysPicture] = field(default_factory=list)

    @property
    def ways(self) -> int:
        """N."""
        return int(self.confusion.shape[1]) - 1

    @property
    def matrix(self) -> Counts:
        """int64 [N + 1, N + 1], over all queries."""
        total: Counts = self.confusion.sum(axis=0)
        return total

    @property
    def difference(self) -> float:
        """N-way mIoU minus one-way mIoU."""
        return self.joint.miou - self.alone.miou

    def difference_interval(self, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL) -> Interval:
        """Percentile interval of the difference; both sides have the same draws."""
        joint, alone = (resample(e.classes, e.counts, resamples=resamples, seed=seed) for e in (self.joint, self.alone))
        return difference_of(joint, alone, level)

    def vanished(self, found: float = FOUND) -> Vanished:
        """Classes that are found alone, with an IoU of `found` or more, and have less than a third of it among others.

        With `found` 0, every class counts that has any pixel right alone.
        """
        return count_vanished(self.joint.counts, self.alone.counts, self.ways, found)


def count_vanished(joint: Counts, alone: Counts, ways: int, found: float = FOUND) -> Vanished:
    """See `WaysEvaluation.vanished`; counts int64 [E * N, 4] as in `Evaluation`."""
    together, single = _iou(joint), _iou(alone)
    held = alone[:, 0] + alone[:, 2] > 0
    there = held & (alone[:, 0] > 0) & (single >= found)
    lost = there & (together < VANISHED * single)
    rows = there.reshape(-1, ways), lost.reshape(-1, ways)
    return Vanished(int(there.sum()), int(lost.sum()), *(int(r.any(axis=1).sum()) for r in rows))


def count_ways(labels: Pixels, alone: Sequence[Pixels], truth: Pixels) -> tuple[Counts, Counts, Counts]:
    """Pixel counts of one query; where the truth is 255, nothing counts.

    Args:
        labels: uint8 [H, W] of 0 to N.
        alone: for each way its mask, uint8 [H, W] of 0 and 1.
        truth: uint8 [H, W] of 0 to N and 255.

    Returns:
        int64 [N, 4] of the label map and of the masks alone (as in `Evaluation`), and the confusion [N + 1, N + 1].
    """
    size = len(alone) + 1
    valid = truth != IGNORE
    pairs = truth[valid].astype(np.int64) * size + labels[valid]
    confusion = np.bincount(pairs, minlength=size * size).reshape(size, size)
    hit = confusion.diagonal()[1:]
    predicted, held = confusion.sum(axis=0)[1:], confusion.sum(axis=1)[1:]
    joint = np.stack([hit, predicted - hit, held - hit, confusion.sum() - predicted - held + hit], axis=1)
    single = []
    for n, mask in enumerate(alone, 1):
        one = Confusion()
        one.add(mask, np.where(valid, truth == n, IGNORE).astype(np.uint8))
        single.append((one.true_positive, one.false_positive, one.false_negative, one.true_negative))
    return joint, np.array(single, np.int64), confusion


def evaluate_ways(
    run: WaysRun,
    dataset: Dataset,
    episodes: WaysSet,
    progress: Callable[[], None] = lambda: None,
    *,
    pictures: int = 0,
) -> WaysEvaluation:
    """Run every episode and count its query's pixels.

    Args:
        run: segments a query by the supports of N classes, as `WaysRun` says.
        dataset: where the episodes' images and masks are.
        progress: called after every episode.
        pictures: number of episodes, from the first on, that are kept to be looked at.

    Raises:
        InputError: no episodes, an image or mask that cannot be read or does not fit, a support without its target.
        ValueError: `run` gave arrays of another size or type, or labels above N.
    """
    if not episodes.episodes:
        raise InputError("There are no episodes to evaluate; draw at least one.")
    joint: list[Counts] = []
    alone: list[Counts] = []
    confusion: list[Counts] = []
    kept: list[WaysPicture] = []
    for number, episode in enumerate(episodes.episodes):
        supports = read_supports(dataset, episode, number)
        query, truth = read_query(dataset, episode)
        labels, masks = run(query, supports)
        for array, top in ((labels, len(episode.ways)), *((mask, 1) for mask in masks)):
            if array.shape != truth.shape or array.dtype != np.uint8 or array.max(initial=0) > top:
                raise ValueError(
                    f"labels are {array.dtype} {list(array.shape)}, not uint8 {list(truth.shape)} up to {top}"
                )
        counted = count_ways(labels, masks, truth)
        for rows, one in zip((joint, alone, confusion), counted, strict=True):
            rows.append(one)
        if len(kept) < pictures:
            kept.append(WaysPicture(episode, [shots[0] for shots in supports], query, truth, labels))
        progress()
    ids = np.array([way.class_id for e in episodes.episodes for way in e.ways], np.int64)
    names = {way.class_id: way.class_name for e in episodes.episodes for way in e.ways}
    both = [Evaluation(ids, np.concatenate(rows), names) for rows in (joint, alone)]
    return WaysEvaluation(both[0], both[1], np.stack(confusion), kept)


def read_supports(dataset: Dataset, episode: WaysEpisode, number: int) -> list[list[tuple[Pixels, Pixels]]]:
    """For each way the images uint8 [H, W, 3] and masks uint8 [H, W] of its supports.

    `number` is that of the episode, from 0 on, for messages.

    Raises:
        InputError: one cannot be read or does not fit, or a support lacks its target.
    """
    found = []
    for way in episode.ways:
        shots = [read_pair(dataset, image_id, way.class_id) for image_id in way.supports]
        for image_id, (_, mask) in zip(way.supports, shots, strict=True):
            if not (mask == 1).any():
                raise InputError(
                    f"Episode {number + 1}: support {image_id} of {dataset.name} holds no pixel of "
                    f"'{way.class_name}'; draw the episodes again."
                )
        found.append(shots)
    return found


def read_query(dataset: Dataset, episode: WaysEpisode) -> tuple[Pixels, Pixels]:
    """The query uint8 [H, W, 3] and its truth, see `ways_truth`.

    Raises:
        InputError: it cannot be read or a mask does not fit.
    """
    pairs = [read_pair(dataset, episode.query, way.class_id) for way in episode.ways]
    return pairs[0][0], ways_truth([mask for _, mask in pairs])


def _iou(counts: Counts) -> NDArray[np.float64]:
    union = counts[:, :3].sum(axis=1)
    iou: NDArray[np.float64] = np.divide(counts[:, 0], union, out=np.ones(len(counts)), where=union > 0)
    return iou

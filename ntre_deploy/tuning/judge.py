"""How a model does on the photos that were held out, and whether another one does better."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ntre_deploy.bench.parity import draw, interval
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.training.evaluator import Evaluation, Interval, Picture, Run, evaluate
from ntre_deploy.tuning.split import PhotoSplit

# supports of each episode at most: as many as people annotate
SHOTS = 5
# of fewer photos, a few that go well by chance would do
LEAST_JUDGED = 4
# held-out photos are few, and which supports meet them matters
_DRAWS = 3


def episodes_of(dataset: Dataset, split: PhotoSplit, seed: int = 0) -> EpisodeSet:
    """Every held-out photo as a query, a few times, with supports of its class from the photos to learn from."""
    drawn = []
    for c, held in split.held_out.items():
        rng = np.random.default_rng([seed, c])
        shots = min(SHOTS, len(split.learn[c]))
        for query in held:
            for _ in range(_DRAWS):
                supports = rng.choice(len(split.learn[c]), shots, replace=False)
                drawn.append(Episode(c, dataset.class_names[c], query, tuple(split.learn[c][k] for k in supports)))
    return EpisodeSet(dataset.name, "all", None, SHOTS, seed, tuple(drawn))


def judge(run: Run, dataset: Dataset, episodes: EpisodeSet, progress: Callable[[], None] = lambda: None) -> Evaluation:
    """Run the episodes; the draws of a photo are summed, so that an interval is one over photos.

    Returns:
        An evaluation with one row of counts, and one picture, for each class and photo.
    """
    found = evaluate(run, dataset, episodes, progress, pictures=len(episodes.episodes))
    rows: dict[tuple[int, str], int] = {}
    owners = [rows.setdefault((e.class_id, e.query), len(rows)) for e in episodes.episodes]
    counts = np.zeros((len(rows), 4), np.int64)
    np.add.at(counts, owners, found.counts)
    pictures: dict[int, Picture] = {}
    for owner, picture in zip(owners, found.pictures, strict=True):
        pictures.setdefault(owner, picture)
    return Evaluation(np.array([c for c, _ in rows], np.int64), counts, found.names, list(pictures.values()))


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another on the same photos, in mIoU, with its paired interval."""

    value: float
    interval: Interval
    photos: int

    @property
    def certain(self) -> bool:
        """Whether the whole interval lies above 0, over photos enough for an interval to mean anything."""
        return self.interval.low > 0 and self.photos >= LEAST_JUDGED


def gain(before: Evaluation, after: Evaluation) -> Gain:
    """mIoU of `after` minus that of `before`, over the same draws of photos."""
    one, two = (
        draw([(int(c), *row) for c, row in zip(e.classes, e.counts.tolist(), strict=True)]) for e in (before, after)
    )
    return Gain(after.miou - before.miou, interval(two.miou - one.miou), len(before.classes))

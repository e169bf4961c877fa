"""A gain is one over photos, and paired."""

import numpy as np

from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.training.evaluator import Evaluation
from ntre_deploy.tuning.judge import gain, judge

DATASET = ProceduralDataset(3, 96)


def test_the_draws_of_a_photo_are_one_row() -> None:
    a, b, *supports = DATASET.images(0)
    c = DATASET.images(1)
    drawn = [Episode(0, "x", a, (supports[0],)), Episode(0, "x", a, (supports[1],)), Episode(0, "x", b, (a,))]
    drawn.append(Episode(1, "y", c[0], (c[1],)))
    episodes = EpisodeSet(DATASET.name, "all", None, 1, 0, tuple(drawn))
    found = judge(lambda query, shots: np.ones(query.shape[:2], np.uint8), DATASET, episodes)
    assert found.classes.tolist() == [0, 0, 1]
    assert [p.episode.query for p in found.pictures] == [a, b, c[0]]
    assert found.counts.sum(axis=1).tolist() == [
        2 * DATASET.mask(a, 0).size,
        DATASET.mask(b, 0).size,
        DATASET.mask(c[0], 1).size,
    ]
    assert abs(found.miou - found.all_foreground) < 1e-12


def evaluation(ious: list[float]) -> Evaluation:
    counts = [[round(100 * iou), 100 - round(100 * iou), 0, 100] for iou in ious]
    return Evaluation(np.arange(len(ious)) % 2, np.array(counts, np.int64), {0: "a", 1: "b"})


def test_a_gain_everywhere_is_certain_though_photos_differ() -> None:
    before = [0.1, 0.8, 0.3, 0.6, 0.2, 0.7]
    found = gain(evaluation(before), evaluation([iou + 0.1 for iou in before]))
    assert abs(found.value - 0.1) < 1e-9
    assert found.certain
    assert abs(found.interval.low - 0.1) < 0.01


def test_a_gain_of_three_photos_may_be_chance() -> None:
    found = gain(evaluation([0.1, 0.8, 0.3]), evaluation([0.2, 0.9, 0.4]))
    assert found.interval.low > 0
    assert not found.certain


def test_a_gain_of_one_photo_is_not() -> None:
    before = [0.5, 0.5, 0.5, 0.5]
    found = gain(evaluation(before), evaluation([0.9, 0.5, 0.5, 0.45]))
    assert found.value > 0
    assert not found.certain

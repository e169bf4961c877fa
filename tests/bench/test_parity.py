"""The paired bootstrap behind the intervals of accuracy and its drop."""

import numpy as np
import pytest

from ntre_deploy.bench.parity import draw, interval

# class, TP, FP, FN, TN of each episode
GOOD = (0, 80, 10, 10, 900)
BAD = (0, 10, 45, 45, 900)


def test_without_spread_the_interval_is_the_value() -> None:
    drawn = draw([GOOD] * 20)
    assert interval(drawn.miou) == (0.8, 0.8)
    assert interval(drawn.fb_iou) == (pytest.approx((0.8 + 900 / 920) / 2),) * 2


def test_the_same_episodes_get_the_same_draws() -> None:
    first, second = draw([GOOD, BAD] * 10), draw([GOOD, BAD] * 10)
    assert np.array_equal(first.miou, second.miou)
    assert not np.array_equal(first.miou, draw([GOOD, BAD] * 10, seed=1).miou)


def test_a_difference_that_is_the_same_in_every_episode_is_sure_though_the_episodes_vary() -> None:
    episodes = [GOOD, BAD] * 10
    # FP moved to FN: the union stays, and so does the IoU of each episode
    moved = [(c, tp, fp - 5, fn + 5, tn) for c, tp, fp, fn, tn in episodes]
    own, other = draw(episodes), draw(moved)
    assert np.ptp(own.miou) > 0.1
    assert interval(own.miou - other.miou) == (0.0, 0.0)


def test_the_interval_of_a_mean_over_classes_agrees_with_its_standard_error() -> None:
    # one episode in each of 100 classes with IoU 0 or 1: the mean's standard error is 0.05
    episodes = [(c, 100 * (c % 2), 0, 100 * (1 - c % 2), 900) for c in range(100)]
    low, high = interval(draw(episodes).miou)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.025)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.025)


def test_empty_unions_are_perfect_as_in_the_score() -> None:
    drawn = draw([(0, 0, 0, 0, 100)] * 3)
    assert interval(drawn.miou) == (1.0, 1.0)

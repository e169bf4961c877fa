"""The metrics, worked out by hand and by their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ntre_deploy.runtime.masks import IGNORE, mask_iou
from ntre_deploy.training.metrics import Confusion, Score

Pixels = NDArray[np.uint8]


def row(*values: int) -> Pixels:
    return np.array([values], np.uint8)


def test_the_four_counts() -> None:
    counts = Confusion()
    counts.add(row(1, 1, 1, 0, 0, 0, 0), row(1, 1, 0, 1, 0, 0, 0))
    assert counts == Confusion(true_positive=2, false_positive=1, false_negative=1, true_negative=3)
    assert counts.foreground_iou == 2 / 4
    assert counts.background_iou == 3 / 5
    assert counts.precision == 2 / 3


def test_counts_add_up_over_queries() -> None:
    counts = Confusion()
    counts.add(row(1, 0), row(1, 1))
    counts.add(row(1, 0, 0), row(0, 0, 1))
    assert counts == Confusion(true_positive=1, false_positive=1, false_negative=2, true_negative=1)


def test_ignored_pixels_do_not_count_whatever_is_predicted_there() -> None:
    assert IGNORE == 255
    truth = row(1, 0, 255, 255, 255)
    for predicted in (row(1, 0, 0, 0, 0), row(1, 0, 1, 1, 0), row(1, 0, 1, 1, 1)):
        counts = Confusion()
        counts.add(predicted, truth)
        assert counts == Confusion(true_positive=1, true_negative=1)


def test_a_query_that_is_ignored_as_a_whole_counts_nothing() -> None:
    counts = Confusion()
    counts.add(row(1, 0), row(255, 255))
    assert counts == Confusion()


def test_only_label_one_is_the_class() -> None:
    counts = Confusion()
    counts.add(row(2, 1, 3), row(1, 1, 2))
    assert counts == Confusion(true_positive=1, false_negative=1, true_negative=1)


def test_an_empty_union_is_a_perfect_iou_and_no_prediction_has_precision_zero() -> None:
    nothing = Confusion()
    nothing.add(row(0, 0), row(0, 0))
    assert (nothing.foreground_iou, nothing.background_iou, nothing.precision) == (1.0, 1.0, 0.0)
    everything = Confusion()
    everything.add(row(1, 1), row(1, 1))
    assert (everything.foreground_iou, everything.background_iou, everything.precision) == (1.0, 1.0, 1.0)


def test_a_class_that_is_absent_and_not_predicted_is_perfect_and_one_false_pixel_makes_it_zero() -> None:
    score = Score()
    score.add(4, row(0, 0, 0), row(0, 0, 0))
    assert score.class_iou == {4: 1.0}
    score.add(4, row(0, 1, 0), row(0, 0, 0))
    assert score.class_iou == {4: 0.0}


def test_miou_is_the_mean_of_the_classes_ratios_of_sums_and_not_of_the_episodes_ious() -> None:
    score = Score()
    score.add(0, row(1, 0, 0, 0, 0, 0, 0, 0), row(1, 0, 0, 0, 0, 0, 0, 0))  # 1 of 1
    score.add(0, row(1, 1, 0, 0, 0, 0, 0, 0), row(1, 1, 1, 1, 1, 1, 1, 1))  # 2 of 8
    score.add(7, row(1, 1, 1, 0, 0, 0, 0, 0), row(0, 1, 1, 1, 0, 0, 0, 0))  # 2 of 4
    assert score.class_iou == {0: 3 / 9, 7: 2 / 4}
    assert score.miou == pytest.approx((3 / 9 + 2 / 4) / 2)
    per_episode = (1 / 1 + 2 / 8 + 2 / 4) / 3
    assert abs(score.miou - per_episode) > 0.1


def test_fb_iou_and_precision_are_over_everything_together() -> None:
    score = Score()
    score.add(0, row(1, 1, 0, 0), row(1, 0, 1, 0))  # TP 1, FP 1, FN 1, TN 1
    score.add(3, row(1, 0, 0, 0), row(1, 0, 0, 0))  # TP 1, TN 3
    assert score.fb_iou == pytest.approx((2 / 4 + 4 / 6) / 2)
    assert score.precision == pytest.approx(2 / 3)


def test_classes_are_told_in_order_and_no_episode_gives_zero() -> None:
    assert Score().miou == 0.0
    assert Score().class_iou == {}
    score = Score()
    for class_id in (9, 2, 5):
        score.add(class_id, row(1), row(1))
    assert list(score.class_iou) == [2, 5, 9]


def test_two_scores_share_nothing() -> None:
    first, second = Score(), Score()
    first.add(0, row(1), row(0))
    assert second.classes == {}


def test_mask_iou() -> None:
    assert mask_iou(row(1, 1, 0, 0), row(0, 1, 1, 0)) == 1 / 3
    assert mask_iou(row(0, 0), row(0, 0)) == 1.0
    assert mask_iou(row(0, 1), row(0, 0)) == 0.0
    assert mask_iou(row(2, 1), row(1, 2)) == 1.0


masks = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1]))
truths = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 255]))
runs = st.lists(st.tuples(st.integers(0, 3), masks, truths), min_size=1, max_size=6)


@given(runs)
def test_every_metric_lies_between_zero_and_one_and_the_counts_are_the_valid_pixels(
    run: list[tuple[int, Pixels, Pixels]],
) -> None:
    score = Score()
    for class_id, predicted, truth in run:
        score.add(class_id, predicted, truth)
    for value in (score.miou, score.fb_iou, score.precision, *score.class_iou.values()):
        assert 0 <= value <= 1
    counted = sum(
        c.true_positive + c.false_positive + c.false_negative + c.true_negative for c in score.classes.values()
    )
    assert counted == sum(int((truth != 255).sum()) for _, _, truth in run)
    assert set(score.class_iou) == {class_id for class_id, _, _ in run}


@given(runs)
def test_a_perfect_prediction_scores_one_and_its_opposite_zero(run: list[tuple[int, Pixels, Pixels]]) -> None:
    perfect, opposite = Score(), Score()
    for class_id, _, truth in run:
        target = (truth == 1).astype(np.uint8)
        perfect.add(class_id, target, truth)
        opposite.add(class_id, 1 - target, truth)
    assert perfect.miou == perfect.fb_iou == 1.0
    for class_id, counts in opposite.classes.items():
        valid = any(c == class_id and (truth != 255).any() for c, _, truth in run)
        assert counts.foreground_iou == (0.0 if valid else 1.0)


@given(masks, masks)
def test_mask_iou_is_symmetric_and_the_confusions_foreground_iou(a: Pixels, b: Pixels) -> None:
    counts = Confusion()
    counts.add(a, b)
    assert mask_iou(a, b) == mask_iou(b, a) == counts.foreground_iou

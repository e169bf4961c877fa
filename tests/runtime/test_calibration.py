"""Calibration: what it does to logits, and what it finds in the answers of classes to each other's targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ntre_deploy.runtime.calibration import NEUTRAL, Calibration, calibrated, fit, response, responses
from ntre_deploy.runtime.labels import label_map, label_scores
from ntre_deploy.runtime.letterbox import Letterbox

TABLES = st.integers(2, 5).flatmap(
    lambda n: arrays.arrays(
        np.float64, (n, n), elements=st.one_of(st.floats(-50, 50), st.just(float("nan")), st.just(0.0))
    )
)
LOGITS = arrays.arrays(np.float32, (3, 2, 4, 5), elements=st.floats(-8, 8, width=32))
BOX = Letterbox.fit(21, 40, 33)


@given(LOGITS)
def test_neutral_calibrations_leave_the_very_array(logits: np.ndarray) -> None:
    assert calibrated(logits, [NEUTRAL] * 3) is logits


@given(LOGITS, st.lists(st.tuples(st.floats(-4, 4), st.floats(0.1, 8)), min_size=3, max_size=3))
def test_a_margin_is_moved_and_scaled_and_the_input_is_left_alone(
    logits: np.ndarray, values: list[tuple[float, float]]
) -> None:
    before = logits.copy()
    found = calibrated(logits, [Calibration(*v) for v in values])
    np.testing.assert_array_equal(logits, before)
    for one, got, (offset, scale) in zip(logits, found, values, strict=True):
        wanted = ((one[1] - one[0]).astype(np.float64) - offset) * scale
        np.testing.assert_allclose(got[1] - got[0], wanted, atol=1e-3)


@given(TABLES)
def test_what_is_fitted_can_always_be_used(table: np.ndarray) -> None:
    for offset, scale in fit(table):
        assert np.isfinite(offset)
        assert offset >= 0
        assert np.isfinite(scale)
        assert scale > 0


@given(TABLES, st.floats(0.5, 20))
def test_the_unit_of_the_margins_does_not_matter(table: np.ndarray, unit: float) -> None:
    for (offset, scale), (larger, same) in zip(fit(table), fit(table * unit), strict=True):
        assert larger == pytest.approx(offset * unit, rel=1e-6, abs=1e-9)
        assert same == pytest.approx(scale, rel=1e-6)


def test_a_class_that_answers_to_the_others_loses_half_of_it() -> None:
    table = np.array([[10.0, 4.0, 6.0], [-3.0, 20.0, -5.0], [-1.0, 3.0, -4.0]])
    assert [c.offset for c in fit(table)] == pytest.approx([2.5 + 0.5, 1.0, 0.5])


def test_a_single_class_and_targets_that_cannot_be_seen_give_nothing() -> None:
    assert fit(np.full((1, 1), 3.0)) == [NEUTRAL]
    assert fit(np.full((2, 2), np.nan)) == [NEUTRAL] * 2
    assert fit(np.zeros((2, 2))) == [NEUTRAL] * 2
    unseen = np.array([[2.0, np.nan, 4.0], [1.0, np.nan, 3.0], [-1.0, np.nan, 6.0]])
    assert [c.offset for c in fit(unseen)] == pytest.approx([2.0 + 0.1, 1.0, 0.3])


def test_the_answer_to_a_target_is_the_mean_margin_over_it() -> None:
    logits = np.zeros((2, 2, 4, 4), np.float32)
    logits[0, 1, :2], logits[1, 0] = 3, 1
    target = np.zeros((8, 8), np.float32)
    target[:4] = 1
    np.testing.assert_allclose(response(logits, target), [3, -1])
    assert np.isnan(response(logits, np.zeros((8, 8), np.float32))).all()


def test_a_shot_that_cannot_be_seen_is_left_out_of_the_mean() -> None:
    seen, unseen = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
    asked = []

    def logits(d: int, k: int) -> np.ndarray:
        asked.append((d, k))
        out = np.zeros((2, 2, 4, 4), np.float32)
        out[:, 1] = 10 * d + k
        return out

    table = responses([[seen, unseen], [unseen]], logits)
    assert asked == [(0, 0), (0, 1), (1, 0)]
    np.testing.assert_array_equal(table[:, 0], [0, 0])
    assert np.isnan(table[:, 1]).all()


@given(LOGITS)
def test_scores_come_with_the_same_labels_and_lie_in_their_range(logits: np.ndarray) -> None:
    labels, scores = label_scores(logits, BOX)
    np.testing.assert_array_equal(labels, label_map(logits, BOX))
    for n, score in enumerate(scores, 1):
        # a winner among N + 1 has at least an equal share
        assert (0.249 <= score <= 1) if (labels == n).any() else score == 0


def test_a_score_is_the_mean_probability_of_what_was_won() -> None:
    logits = np.zeros((2, 2, 4, 5), np.float32)
    logits[0, 1], logits[1, 1] = 2.0, 1.0
    _, scores = label_scores(logits, BOX)
    assert scores == (pytest.approx(np.e**2 / (1 + np.e + np.e**2), rel=1e-5), 0.0)
    # wider margins are clearer decisions
    assert label_scores(3 * logits, BOX)[1][0] > scores[0]


@pytest.mark.parametrize("height", [1, 3000])
def test_scores_of_images_of_any_size(height: int) -> None:
    box = Letterbox.fit(height, 7, 33)
    labels, (score,) = label_scores(np.array([[[[0.0]], [[1e30]]]], np.float32), box)
    assert (labels == 1).all()
    assert score == 1.0

"""Evaluation on runs whose answers are known: counts by hand, degenerate intervals, and coverage where it is known."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import InputError
from ntre_deploy.training.evaluator import Evaluation, Interval, Stages, evaluate, intervals_of, resample
from ntre_deploy.training.metrics import Score

Pixels = NDArray[np.uint8]
Counts = NDArray[np.int64]
Shots = Sequence[tuple[Pixels, Pixels]]


class Rows:
    """Images of 1 x 8 pixels; the mask of every class is the text of the image's id, `x` stands for 255."""

    name = "rows"
    class_names: Mapping[int, str] = {0: "fork", 3: "spoon"}

    def images(self, class_id: int) -> Sequence[str]:
        return []

    def image(self, image_id: str) -> Pixels:
        return np.zeros((1, 8, 3), np.uint8)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        return np.array([[255 if c == "x" else int(c) for c in image_id]], np.uint8)


def episodes(*drawn: tuple[int, str], support: str = "11000000") -> EpisodeSet:
    named = tuple(Episode(c, Rows.class_names[c], query, (support,)) for c, query in drawn)
    return EpisodeSet("rows", "all", None, 1, 0, named)


def first_four(query: Pixels, shots: Shots) -> Pixels:
    labels = np.zeros(query.shape[:2], np.uint8)
    labels[:, :4] = 1
    return labels


TWO = episodes((0, "11100000"), (3, "00011100"), (0, "1111xxxx"))


def test_the_counts_and_metrics_are_those_worked_out_by_hand() -> None:
    found = evaluate(first_four, Rows(), TWO)
    assert found.classes.tolist() == [0, 3, 0]
    assert found.counts.tolist() == [[3, 1, 0, 4], [1, 3, 2, 2], [4, 0, 0, 0]]
    assert found.names == {0: "fork", 3: "spoon"}
    assert found.episodes_of == {0: 2, 3: 1}
    assert found.score.class_iou == {0: 7 / 8, 3: 1 / 6}
    assert found.miou == pytest.approx((7 / 8 + 1 / 6) / 2)
    assert found.fb_iou == pytest.approx((8 / 14 + 6 / 12) / 2)
    assert found.precision == 8 / 12
    # 7 of 12 and 3 of 8 valid pixels are targets
    assert found.all_foreground == pytest.approx((7 / 12 + 3 / 8) / 2)


def test_the_run_gets_the_query_and_its_shots_and_progress_counts_every_episode() -> None:
    seen, steps = [], []

    def run(query: Pixels, shots: Shots) -> Pixels:
        seen.append((query.shape, [(image.shape, mask.tolist()) for image, mask in shots]))
        return first_four(query, shots)

    evaluate(run, Rows(), TWO, lambda: steps.append(1))
    assert seen == [((1, 8, 3), [((1, 8, 3), [[1, 1, 0, 0, 0, 0, 0, 0]])])] * 3
    assert len(steps) == 3


def test_only_the_pictures_asked_for_are_kept_and_explained() -> None:
    stages = Stages(None, None, None)
    asked = []

    def explain(query: Pixels, shots: Shots) -> Stages:
        asked.append(len(shots))
        return stages

    assert evaluate(first_four, Rows(), TWO, explain=explain).pictures == []
    found = evaluate(first_four, Rows(), TWO, pictures=2, explain=explain).pictures
    assert asked == [1, 1]
    assert [p.episode.query for p in found] == ["11100000", "00011100"]
    assert found[0].stages is stages
    assert found[1].labels.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert found[1].truth.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert evaluate(first_four, Rows(), TWO, pictures=9).pictures[2].stages is None


def test_no_episodes_are_refused() -> None:
    with pytest.raises(InputError, match="no episodes"):
        evaluate(first_four, Rows(), episodes())


@pytest.mark.parametrize("support", ["00000000", "0000xxxx"])
def test_a_support_without_its_target_is_refused_with_the_episode(support: str) -> None:
    with pytest.raises(InputError, match=f"Episode 1: support {support} of rows .*'spoon'"):
        evaluate(first_four, Rows(), episodes((3, "11100000"), support=support))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="8 x 1 pixels and its mask 3 x 1"):
        evaluate(first_four, Rows(), episodes((0, "111")))


@pytest.mark.parametrize("wrong", [np.zeros((1, 7), np.uint8), np.zeros((1, 8), np.int64)])
def test_a_run_that_gives_no_labels_is_a_defect(wrong: Pixels) -> None:
    with pytest.raises(ValueError, match="labels are"):
        evaluate(lambda query, shots: wrong, Rows(), TWO)


def test_evaluation_needs_no_torch() -> None:
    modules = ", ".join(f"ntre_deploy.training.{name}" for name in ("evaluator", "runs", "released"))
    subprocess.run([sys.executable, "-c", f"import sys; sys.modules['torch'] = None; import {modules}"], check=True)


# --- intervals


def of(classes: Sequence[int], counts: Sequence[Sequence[int]]) -> Evaluation:
    return Evaluation(np.array(classes, np.int64), np.array(counts, np.int64), {})


def test_equal_episodes_leave_nothing_to_chance() -> None:
    found = of([0] * 5, [[60, 20, 20, 100]] * 5).intervals()
    assert found.miou == found.classes[0] == pytest.approx((0.6, 0.6))
    assert found.fb_iou == pytest.approx(((0.6 + 100 / 140) / 2,) * 2)
    assert found.precision == pytest.approx((0.75, 0.75))


def test_classes_are_not_drawn_again_only_episodes_inside_them() -> None:
    # a perfect class and a hopeless one: drawing over all episodes would give anything from 0 to 1
    found = of([0] * 4 + [1] * 4, [[10, 0, 0, 10]] * 4 + [[0, 10, 10, 0]] * 4).intervals()
    assert found.miou == (0.5, 0.5)
    assert found.classes == {0: Interval(1, 1), 1: Interval(0, 0)}


def test_two_episodes_give_the_three_values_that_they_can() -> None:
    evaluation = of([0, 0], [[100, 0, 0, 0], [0, 50, 50, 0]])
    sums = resample(evaluation.classes, evaluation.counts, resamples=4000)[0]
    values, numbers = np.unique(sums[:, 0], return_counts=True)
    assert values.tolist() == [0, 100, 200]
    np.testing.assert_allclose(numbers / 4000, [0.25, 0.5, 0.25], atol=0.03)
    # the ratio of sums, and not the mean of ratios
    assert evaluation.intervals().miou == (0, 1)
    assert set(np.unique(sums[:, 0] / sums[:, :3].sum(1))) == {0, 0.5, 1}


def test_empty_unions_follow_the_metrics() -> None:
    found = of([0, 0], [[0, 0, 0, 9], [0, 0, 0, 9]]).intervals()
    assert (found.miou, found.fb_iou, found.precision) == ((1, 1), (1, 1), (0, 0))


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly_so() -> None:
    evaluation = synthetic(np.random.default_rng(0), {0: (40, 0.6, 0.1), 1: (40, 0.3, 0.1)})
    assert evaluation.intervals() == evaluation.intervals(seed=0)
    other = evaluation.intervals(seed=1)
    assert other != evaluation.intervals()
    np.testing.assert_allclose(other.miou, evaluation.intervals().miou, atol=0.01)


def test_two_models_on_the_same_episodes_get_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    worse = synthetic(rng, {0: (30, 0.5, 0.2), 4: (20, 0.4, 0.2)})
    # everywhere 5 points better: the paired difference is certain, though each interval is wide
    better = Evaluation(worse.classes, worse.counts + np.array([500, 0, -500, 0]), {})
    a = resample(worse.classes, worse.counts)
    b = resample(better.classes, better.counts)
    for c in (0, 4):
        np.testing.assert_allclose((b[c][:, 0] - a[c][:, 0]) / 10_000 / worse.episodes_of[c], 0.05)
    assert np.diff(worse.intervals().miou) > 0.05


def test_a_class_is_drawn_alike_whatever_other_classes_there_are() -> None:
    both = synthetic(np.random.default_rng(2), {0: (12, 0.5, 0.2), 7: (9, 0.4, 0.2)})
    own = both.classes == 7
    alone = Evaluation(both.classes[own], both.counts[own], {})
    assert alone.intervals().classes[7] == both.intervals().classes[7]


def test_many_episodes_are_gathered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = synthetic(np.random.default_rng(3), {0: (50, 0.5, 0.1)})
    whole = evaluation.intervals(resamples=500).miou
    monkeypatch.setattr("ntre_deploy.training.evaluator._GATHERED", 1000)
    sums = resample(evaluation.classes, evaluation.counts, resamples=501)[0]
    assert sums.shape == (501, 4)
    assert (sums.sum(axis=1) == 50 * 10_000).all()
    np.testing.assert_allclose(evaluation.intervals(resamples=500).miou, whole, atol=0.01)


def synthetic(rng: np.random.Generator, classes: Mapping[int, tuple[int, float, float]]) -> Evaluation:
    """Episodes with a union of 10,000 pixels each, so that a class's IoU is the mean of its episodes' IoU."""
    ids, rows = [], []
    for c, (number, mean, spread) in classes.items():
        inside = np.clip(np.round(10_000 * rng.normal(mean, spread, number)), 0, 10_000).astype(int)
        ids += [c] * number
        rows += [[i, 0, 10_000 - i, 0] for i in inside]
    return of(ids, rows)


def test_the_interval_is_the_normal_one_where_that_is_known() -> None:
    evaluation = synthetic(np.random.default_rng(4), {0: (400, 0.6, 0.1), 1: (100, 0.4, 0.05)})
    low, high = evaluation.intervals(resamples=4000).miou
    parts = [evaluation.counts[evaluation.classes == c, 0] / 10_000 for c in (0, 1)]
    error = np.sqrt(sum(p.var() / len(p) for p in parts)) / 2
    centre = np.mean([p.mean() for p in parts])
    np.testing.assert_allclose([low, high], [centre - 1.96 * error, centre + 1.96 * error], atol=0.1 * error)


def test_a_95_percent_interval_covers_the_truth_in_about_95_percent_of_the_runs() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        low, high = synthetic(rng, {0: (60, 0.6, 0.1), 1: (60, 0.4, 0.1)}).intervals(resamples=400).miou
        covered += low <= 0.5 <= high
    # three standard errors of 400 trials, and the bootstrap's small-sample loss below
    assert 0.905 <= covered / 400 <= 0.985


def test_a_lower_level_is_narrower() -> None:
    evaluation = synthetic(np.random.default_rng(6), {0: (60, 0.6, 0.1)})
    wide, narrow = evaluation.intervals().miou, evaluation.intervals(level=0.5).miou
    assert wide.low < narrow.low < narrow.high < wide.high


def test_other_methods_do_not_hide_in_the_library() -> None:
    """NumPy's percentile of plain bootstrap means, written out again."""
    values = np.array([0.1, 0.4, 0.5, 0.9])
    evaluation = of([0] * 4, [[int(1000 * v), 0, 1000 - int(1000 * v), 0] for v in values])
    rng = np.random.default_rng(np.random.SeedSequence([0, 0]))
    means = values[rng.integers(4, size=(2000, 4))].mean(axis=1)
    assert evaluation.intervals().miou == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))


numbers = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1000), min_size=4, max_size=4)), min_size=1, max_size=8
)


@given(numbers)
@settings(max_examples=60, deadline=None)
def test_the_resampled_metrics_are_the_scores(drawn: list[tuple[int, list[int]]]) -> None:
    evaluation = of([c for c, _ in drawn], [n for _, n in drawn])
    score = evaluation.score
    # one "resample" that is the whole
    sums: dict[int, Counts] = {
        c: evaluation.counts[evaluation.classes == c].sum(0, keepdims=True) for c in evaluation.episodes_of
    }
    found = intervals_of(sums)
    assert found.miou == pytest.approx((score.miou,) * 2)
    assert found.fb_iou == pytest.approx((score.fb_iou,) * 2)
    assert found.precision == pytest.approx((score.precision,) * 2)
    assert {c: i.low for c, i in found.classes.items()} == pytest.approx(score.class_iou)


@given(numbers)
@settings(max_examples=40, deadline=None)
def test_intervals_are_ordered_and_inside_zero_and_one(drawn: list[tuple[int, list[int]]]) -> None:
    found = of([c for c, _ in drawn], [n for _, n in drawn]).intervals(resamples=50)
    for low, high in (found.miou, found.fb_iou, found.precision, *found.classes.values()):
        assert 0 <= low <= high <= 1


masks = st.text("01x", min_size=8, max_size=8)


@given(st.lists(st.tuples(st.sampled_from([0, 3]), masks), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_evaluation_scores_what_the_metrics_do(drawn: list[tuple[int, str]]) -> None:
    found = evaluate(first_four, Rows(), episodes(*drawn))
    score = Score()
    everything = Score()
    for c, text in drawn:
        truth = Rows().mask(text, c)
        score.add(c, first_four(np.zeros((1, 8, 3), np.uint8), []), truth)
        everything.add(c, np.ones((1, 8), np.uint8), truth)
    assert found.score == score
    assert found.all_foreground == pytest.approx(everything.miou)

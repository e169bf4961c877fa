"""`run_bench` with systems whose answers are known: order, numbers of samples, parity and accuracy by hand."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench.groups import Group
from ntre_deploy.bench.report import build_report
from ntre_deploy.bench.runner import Picture, Result, environment, label, run_bench, run_groups
from ntre_deploy.data.episodes import Episode, EpisodeSet

YES, NO = (0.0, 2.0), (2.0, 0.0)
SIDE = 33
Run = tuple[list[Result], list[Picture]]


@pytest.fixture
def run(constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet) -> Run:
    """The reference says yes everywhere; `near` differs in the logits alone, `far` on the second photo."""
    systems = [
        constant("reference", {"a": YES, "b": YES}),
        constant("near", {"a": (0.0, 1.9), "b": (0.1, 2.0)}),
        constant("far", {"a": YES, "b": NO}, "fp16"),
    ]
    return run_bench(systems, spec, photos, two_episodes, rounds=2, pictures=1)


def test_every_system_is_timed_rounds_times_episodes(run: Run) -> None:
    results, _ = run
    assert [(r.name, r.precision) for r in results] == [("reference", "fp32"), ("near", "fp32"), ("far", "fp16")]
    for result in results:
        assert all(len(times) == 4 for times in result.queries.parts.values())
        assert all(time >= 0 for times in result.queries.parts.values() for time in times)
        assert len(result.differing) == len(result.mask_ious) == len(result.logits_errors) == 2


def test_systems_take_turns_and_another_one_begins_every_time(
    constant: Callable[..., Any], photos: Any, spec: Any, log: list[tuple[str, str]]
) -> None:
    episodes = EpisodeSet("photos", "all", None, 1, 0, tuple(Episode(0, "fork", "a", ("s",)) for _ in range(4)))
    systems = [constant(name, {"a": YES}) for name in "ABC"]
    parts: list[list[tuple[str, str]]] = []

    def progress() -> None:
        parts.append(log.copy())
        log.clear()

    run_bench(systems, spec, photos, episodes, rounds=2, progress=progress)
    assert len(parts) == 4
    # the first episode warms up before it measures, as often as the machine likes
    assert [name for name, _ in parts[0][-6:]] == list("ABCBCA")
    for calls, order in zip(parts[1:], ("BCACAB", "CABABC", "ABCBCA"), strict=True):
        assert [name for name, what in calls if what == "prepare"] == list("ABC")
        assert [name for name, what in calls if what == "a"] == list(order)
        assert len(calls) == 9


def test_the_warm_up_is_not_among_the_samples(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, log: list[tuple[str, str]]
) -> None:
    results, _ = run_bench([constant("A", {"a": YES, "b": NO})], spec, photos, two_episodes)
    assert len(results[0].queries.parts["total"]) == 2
    assert len(log) > 2 + 2 + 2  # two preparations, two queries, and the warm-up


def test_differing_pixels_by_hand(run: Run) -> None:
    reference, near, far = run[0]
    assert reference.differing == near.differing == [0.0, 0.0]
    # of photo b, the 11 last columns do not count
    assert far.differing == [0.0, 1.0]
    assert far.pixels == [SIDE * SIDE, SIDE * 22]


def test_mask_iou_by_hand(run: Run) -> None:
    reference, near, far = run[0]
    assert reference.mask_ious == near.mask_ious == [1.0, 1.0]
    assert far.mask_ious == [1.0, 0.0]


def test_the_error_of_the_logits_by_hand(run: Run) -> None:
    reference, near, far = run[0]
    assert reference.logits_errors == [0.0, 0.0]
    assert near.logits_errors == pytest.approx([0.05, 0.05])
    assert far.logits_errors == [0.0, 1.0]


def test_accuracy_by_hand(run: Run) -> None:
    reference, _, far = run[0]
    # photo a: 11 of 33 rows are the target, and everything is predicted; photo b: all valid pixels are
    assert reference.score.class_iou == {0: pytest.approx(11 / 33), 5: 1.0}
    assert far.score.class_iou == {0: pytest.approx(11 / 33), 5: 0.0}
    assert reference.score.miou == pytest.approx(2 / 3)


def test_the_report_carries_these_figures(run: Run, bundle_of: Callable[..., Any], two_episodes: EpisodeSet) -> None:
    report = build_report({"tiny": bundle_of()}, two_episodes, run[0], environment(1), "ntre bench")
    reference, near, far = report["systems"]
    exact = {"finite": True, "miou_drop": 0.0, "differing_pixels": 0.0, "mask_iou": 1.0, "logits_error": 0.0}
    assert reference["parity"].items() >= exact.items()
    assert near["parity"]["differing_pixels"] == 0.0
    assert near["parity"]["logits_error"] == pytest.approx(0.05)
    # every pixel counts once: 33 x 22 that differ among 33 x 55, and not the mean of 0 and 1
    assert far["parity"]["differing_pixels"] == pytest.approx(22 / 55)
    assert far["parity"]["miou_drop"] == pytest.approx(0.5)
    assert far["parity"]["mask_iou"] == 0.5
    assert far["parity"]["worst_episode"] == 1.0
    assert far["parity"]["pixel_agreement"] == pytest.approx(1 - 22 / 55)
    assert far["parity"]["logits_error"] == 1.0


def test_the_order_of_the_systems_does_not_change_what_they_give(
    run: Run, constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet
) -> None:
    again, _ = run_bench(
        [constant("far", {"a": YES, "b": NO}, "fp16"), constant("reference", {"a": YES, "b": YES})],
        spec,
        photos,
        two_episodes,
    )
    assert again[0].score.class_iou == run[0][2].score.class_iou
    assert again[1].differing == [0.0, 1.0]


def test_the_picture_is_of_the_worst_episode_and_holds_what_was_seen(run: Run, photos: Any) -> None:
    results, (picture,) = run
    # `far` differs on photo b alone, which comes second
    assert picture.episode.query == "b"
    assert np.array_equal(picture.query, photos.image("b"))
    assert np.array_equal(picture.support, photos.image("t"))
    assert np.array_equal(picture.support_mask, photos.mask("t", 5))
    assert np.array_equal(picture.truth, photos.mask("b", 5))
    assert list(picture.masks) == [label(r) for r in results] == ["reference fp32", "near fp32", "far fp16"]
    assert [int(mask.max()) for mask in picture.masks.values()] == [1, 1, 0]
    assert picture.differing == {"reference fp32": 0.0, "near fp32": 0.0, "far fp16": 1.0}


def test_where_all_masks_agree_the_pictures_are_those_in_which_the_reference_is_worst(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet
) -> None:
    # everywhere target: photo a has it in a third of its rows, photo b in all that count
    systems = [constant(name, {"a": YES, "b": YES}) for name in ("A", "B")]
    for count, queries in ((1, ["a"]), (2, ["a", "b"]), (9, ["a", "b"])):
        _, pictures = run_bench(systems, spec, photos, two_episodes, pictures=count)
        assert [picture.episode.query for picture in pictures] == queries


def test_every_system_gets_its_samples_and_its_time_and_the_fast_one_more_turns(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet
) -> None:
    slow = constant("slow", {"a": YES, "b": YES})
    compute = slow.compute
    slow.compute = lambda pixels, state: (time.sleep(0.03), compute(pixels, state))[1]
    systems = [slow, constant("fast", {"a": YES, "b": YES})]
    results, _ = run_bench(systems, spec, photos, two_episodes, seconds=0.2, least=3)
    for result in results:
        assert len(result.queries.parts["total"]) >= 3
        assert result.queries.seconds >= 0.2
    assert len(results[1].queries.parts["total"]) > len(results[0].queries.parts["total"])
    results, _ = run_bench(systems, spec, photos, two_episodes, least=5)
    assert [len(result.queries.parts["total"]) for result in results] == [5, 5]


def test_groups_have_references_of_their_own(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet
) -> None:
    def group(bundle: str, first: tuple[float, float], second: tuple[float, float]) -> Group:
        systems = [constant("reference", {"a": first, "b": first}), constant("engine", {"a": second, "b": second})]
        return Group(spec, systems, [bundle, bundle])

    results, _ = run_groups([group("one", YES, YES), group("two", NO, NO)], photos, two_episodes)
    assert [(r.bundle, r.name, r.reference) for r in results] == [
        ("one", "reference", 0),
        ("one", "engine", 0),
        ("two", "reference", 2),
        ("two", "engine", 2),
    ]
    assert [r.differing for r in results] == [[0.0, 0.0]] * 4
    assert label(results[3]) == "two: engine fp32"


def test_the_preparation_of_the_first_episode_is_no_sample(run: Run) -> None:
    for result in run[0]:
        assert len(result.supports) == 1


def test_a_query_without_a_valid_pixel_differs_nowhere_and_counts_for_nothing(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, bundle_of: Callable[..., Any]
) -> None:
    photos.truth = {**photos.truth, "b": (0, SIDE)}
    systems = [constant("A", {"a": YES, "b": YES}), constant("B", {"a": NO, "b": NO})]
    results, _ = run_bench(systems, spec, photos, two_episodes)
    assert (results[1].differing, results[1].pixels) == ([1.0, 0.0], [SIDE * SIDE, 0])
    report = build_report({"tiny": bundle_of()}, two_episodes, results, environment(1), "ntre bench")
    assert report["systems"][1]["parity"]["differing_pixels"] == 1.0


def test_the_environment_names_what_figures_depend_on() -> None:
    found = environment(3)
    assert set(found) >= {"cpu", "cores", "threads", "load_before", "versions"}
    assert found["threads"] == 3
    assert found["cpu"]
    assert found["versions"]["numpy"] == np.__version__

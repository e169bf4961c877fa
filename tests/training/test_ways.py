"""N-way evaluation: counts that a second way of counting gives too, and runs of network and engine that agree."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ntre_deploy.data.registry import open_dataset
from ntre_deploy.data.ways import WaysSet, sample_ways, ways_truth
from ntre_deploy.errors import InputError
from ntre_deploy.training.evaluator import Pixels, Shots
from ntre_deploy.training.ways import WaysEvaluation, count_vanished, count_ways, evaluate_ways
from ntre_deploy.training.ways_report import (
    build_ways_report,
    confusion_table,
    ways_lines,
    ways_sheet,
    write_ways_report,
)

DATA = open_dataset("procedural:4")


def drawn(**more: Any) -> WaysSet:
    return sample_ways(DATA, range(24), **({"ways": 3, "shots": 1, "count": 5, "seed": 0} | more))


@st.composite
def queries(draw: st.DrawFn) -> tuple[Pixels, list[Pixels], Pixels]:
    ways = draw(st.integers(1, 4))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, ways)))
    truth = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([*range(ways + 1), 255])))
    masks = [draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1))) for _ in range(ways)]
    return labels, masks, truth


@given(queries())
def test_counts_are_those_of_counting_pixel_by_pixel(given_query: tuple[Pixels, list[Pixels], Pixels]) -> None:
    labels, masks, truth = given_query
    joint, alone, confusion = count_ways(labels, masks, truth)
    wanted = np.zeros_like(confusion)
    for place in np.ndindex(*truth.shape):
        if truth[place] != 255:
            wanted[truth[place], labels[place]] += 1
    np.testing.assert_array_equal(confusion, wanted)
    valid = truth != 255
    for n, mask in enumerate(masks, 1):
        for row, own in ((joint[n - 1], labels == n), (alone[n - 1], mask == 1)):
            cells = [own & (truth == n), own & (truth != n), ~own & (truth == n), ~own & (truth != n)]
            assert row.tolist() == [int((cell & valid).sum()) for cell in cells]
    assert confusion.sum() == valid.sum()
    assert (joint.sum(axis=1) == valid.sum()).all()


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_what_is_the_same_alone_and_together_never_vanishes(ways: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, (3 * ways, 4))
    assert count_vanished(counts, counts, ways, 0.0).queries == 0
    nothing = counts * (0, 0, 1, 1) + np.stack([0 * counts[:, 0], 0 * counts[:, 0], counts[:, 0], counts[:, 1]], 1)
    lost = count_vanished(nothing, counts, ways, 0.0)
    assert (lost.vanished, lost.queries) == (lost.found, lost.found_queries)


def test_vanished_is_below_a_third_of_what_was_found_alone() -> None:
    # IoU alone 0.9, 0.9, 0.05; together 0.31, 0.3 - and the last, hardly found, is lost
    alone = np.array([[90, 10, 0, 0], [90, 10, 0, 0], [5, 95, 0, 0], [0, 10, 0, 90]])
    joint = np.array([[31, 0, 69, 0], [29, 0, 71, 0], [0, 0, 5, 95], [0, 0, 0, 100]])
    lost = count_vanished(joint, alone, 2)
    assert (lost.found, lost.vanished, lost.found_queries, lost.queries, lost.share) == (2, 1, 1, 1, 1.0)
    strict = count_vanished(joint, alone, 2, 0.0)
    assert (strict.found, strict.vanished, strict.found_queries, strict.queries, strict.share) == (3, 2, 2, 2, 1.0)


def oracle(episodes: WaysSet, swap: bool = False) -> Any:
    """Right masks alone; the label map is right, or has all classes moved on by one."""
    left = iter(episodes.episodes)

    def run(query: Pixels, classes: Sequence[Shots]) -> tuple[Pixels, list[Pixels]]:
        episode = next(left)
        masks = [DATA.mask(episode.query, way.class_id) for way in episode.ways]
        labels = ways_truth(masks)
        return np.where(labels > 0, labels % len(masks) + 1, 0).astype(np.uint8) if swap else labels, masks

    return run


def test_a_right_run_is_perfect_and_a_swapped_one_has_lost_its_classes() -> None:
    episodes = drawn()
    right = evaluate_ways(oracle(episodes), DATA, episodes, pictures=2)
    assert (right.joint.miou, right.alone.miou, right.difference) == (1.0, 1.0, 0.0)
    assert (right.matrix == np.diag(right.matrix.diagonal())).all()
    assert right.vanished().queries == 0
    swapped = evaluate_ways(oracle(episodes, swap=True), DATA, episodes)
    assert swapped.joint.miou < 0.5
    assert swapped.alone.miou == 1.0
    assert swapped.vanished().share == 1.0
    assert swapped.matrix[1, 2] == right.matrix[1, 1]
    low, high = swapped.difference_interval(resamples=50)
    assert low <= swapped.difference <= high


def report_of(found: WaysEvaluation, episodes: WaysSet) -> dict[str, Any]:
    return build_ways_report(
        found,
        episodes,
        model={"name": "m", "origin": {}},
        engine={"name": "e", "precision": "fp32"},
        environment={},
        command="ntre eval",
        calibrated=True,
    )


def test_the_report_has_both_figures_the_confusion_and_what_vanished(tmp_path: Path) -> None:
    episodes = drawn()
    found = evaluate_ways(oracle(episodes, swap=True), DATA, episodes, pictures=2)
    report = report_of(found, episodes)
    written = write_ways_report(tmp_path, report, found, episodes)
    assert json.loads(written["report"].read_text()) == report
    assert report["episodes"]["ways"] == report["ways"]["ways"] == 3
    assert report["ways"]["one_way"]["miou"]["value"] == 1.0
    assert report["ways"]["difference"]["value"] == pytest.approx(report["results"]["miou"]["value"] - 1)
    assert report["ways"]["confusion"] == found.matrix.tolist()
    assert report["ways"]["vanished"]["share"] == 1.0
    rows = list(csv.DictReader(written["episodes"].open()))
    assert len(rows) == 15
    assert [int(rows[4][k]) for k in ("tp", "fp", "fn", "tn")] == found.joint.counts[4].tolist()
    assert [int(rows[4][f"alone_{k}"]) for k in ("tp", "fp", "fn", "tn")] == found.alone.counts[4].tolist()
    assert written["sheet"].is_file()
    # three ways, query, labels, truth
    assert ways_sheet(found.pictures).shape == (28 + 2 * 188 + 8, 6 * 248 + 8, 3)
    first, second = ways_lines(report)
    assert "one-way on the same queries 100.00" in first
    assert "calibrated by the supports" in first
    assert "(100.0%)" in second
    assert confusion_table(report["ways"]["confusion"]) is not None
    assert confusion_table(np.eye(12, dtype=int).tolist()) is None


def test_no_episodes_and_labels_that_do_not_fit_are_refused() -> None:
    episodes = drawn(count=1)
    with pytest.raises(InputError, match="no episodes"):
        evaluate_ways(oracle(episodes), DATA, WaysSet("procedural:4", "all", None, 1, 0, (), 3))

    def high(query: Pixels, classes: Sequence[Shots]) -> tuple[Pixels, list[Pixels]]:
        labels, masks = oracle(episodes)(query, classes)
        labels[0, 0] = 4
        return labels, masks

    with pytest.raises(ValueError, match="up to 3"):
        evaluate_ways(high, DATA, episodes)


@pytest.mark.parametrize("calibrate", [False, True])
def test_checkpoint_and_bundle_count_alike(tiny_checkpoint: Path, exported: Path, calibrate: bool) -> None:
    from ntre_deploy.export.torch_engines import FullNetwork
    from ntre_deploy.model.checkpoint import load_checkpoint
    from ntre_deploy.runtime.inputspec import InputSpec
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.training.ways_runs import network_ways, segmenter_ways

    network = FullNetwork(load_checkpoint(tiny_checkpoint).model, InputSpec(65))
    episodes = drawn(shots=2, count=2)
    runs = network_ways(network, calibrate), segmenter_ways(Segmenter.load(exported, "onnx-cpu"), calibrate)
    ours, theirs = (evaluate_ways(run, DATA, episodes) for run in runs)
    pixels = ours.matrix.sum()
    assert np.abs(ours.matrix - theirs.matrix).sum() < 0.01 * pixels
    assert np.abs(ours.alone.counts - theirs.alone.counts).max() < 0.01 * pixels

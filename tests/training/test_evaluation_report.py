"""The report of an evaluation: what stands in it, when it warns, and its sheet."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.training.evaluation_report import build_report, heading, sheet, table, write_report
from ntre_deploy.training.evaluator import Evaluation, Picture, Stages

COUNTS = {0: [60, 20, 20, 100], 1: [10, 30, 0, 160]}


def drawn(*classes: int, fold: int | None = 0, dataset: str = "procedural:5") -> EpisodeSet:
    episodes = tuple(Episode(c, f"thing {c}", f"q{i}", (f"s{i}", "t")) for i, c in enumerate(classes))
    return EpisodeSet(dataset, "all" if fold is None else "interleaved", fold, 2, 7, episodes)


def report_of(episodes: EpisodeSet, *, protocol: str = "exact", **origin: Any) -> tuple[dict[str, Any], Evaluation]:
    classes = [e.class_id for e in episodes.episodes]
    names = {e.class_id: e.class_name for e in episodes.episodes}
    evaluation = Evaluation(np.array(classes), np.array([COUNTS[c] for c in classes]), names)
    model = {"kind": "checkpoint", "name": "a.safetensors", "origin": origin}
    engine = {"name": "pytorch", "precision": "fp32", "threads": 1}
    report = build_report(
        evaluation,
        episodes,
        model=model,
        engine=engine,
        environment={"cores": 2},
        command="ntre eval a.safetensors",
        protocol=protocol,
    )
    return report, evaluation


def test_the_report_holds_what_it_takes_to_repeat_it() -> None:
    episodes = drawn(0, 1, 0)
    report, _ = report_of(episodes, head="trained")
    assert (report["format"], report["version"], report["protocol"]) == ("ntre-eval", 1, "exact")
    assert report["command"] == "ntre eval a.safetensors"
    assert report["episodes"] == {
        "dataset": "procedural:5",
        "split": "interleaved",
        "fold": 0,
        "shots": 2,
        "seed": 7,
        "count": 3,
        "sha256": episodes.hash,
    }
    assert report["environment"] == {"cores": 2}
    assert report["bootstrap"]["seed"] == 0
    assert json.loads(json.dumps(report)) == report


def test_the_results_are_the_counts_worked_out() -> None:
    results = report_of(drawn(0, 1, 0, 1))[0]["results"]
    assert [(c["class"], c["name"], c["episodes"]) for c in results["classes"]] == [
        (0, "thing 0", 2),
        (1, "thing 1", 2),
    ]
    assert [c["value"] for c in results["classes"]] == [0.6, 0.25]
    assert [c["precision"] for c in results["classes"]] == [0.75, 0.25]
    assert results["miou"] == pytest.approx({"value": 0.425, "low": 0.425, "high": 0.425})
    assert results["fb_iou"]["value"] == pytest.approx((70 / 140 + 260 / 330) / 2)
    assert results["precision"]["value"] == pytest.approx(70 / 120)
    assert results["all_foreground_miou"] == pytest.approx((80 / 200 + 10 / 200) / 2)


def test_one_episode_has_no_interval_and_not_one_without_width() -> None:
    results = report_of(drawn(0, 0, 1))[0]["results"]
    assert results["classes"][0]["low"] == pytest.approx(0.6)
    assert (results["classes"][1]["low"], results["classes"][1]["high"]) == (None, None)
    assert results["miou"]["low"] is not None
    results = report_of(drawn(0, 1))[0]["results"]
    assert [results[key]["low"] for key in ("miou", "fb_iou", "precision")] == [None] * 3


@pytest.mark.parametrize(
    ("origin", "episodes", "word"),
    [
        ({"head": "untrained"}, drawn(*[0] * 10), "untrained"),
        ({"fold": 1, "split": "interleaved"}, drawn(*[0] * 10), "fold 1 (interleaved)"),
        ({"fold": 0, "split": "contiguous"}, drawn(*[0] * 10), "fold 0 (contiguous)"),
        ({"fold": 0, "split": "interleaved"}, drawn(*[0] * 10, fold=None), "may have seen"),
        ({"fold": 1, "split": "interleaved", "dataset": "procedural:3"}, drawn(*[0] * 10), "may have seen"),
        ({}, drawn(*[0] * 10, *[1] * 9), "1 of 2 classes"),
    ],
)
def test_what_a_reader_must_know_is_a_warning(origin: dict[str, Any], episodes: EpisodeSet, word: str) -> None:
    (warning,) = report_of(episodes, **origin)[0]["warnings"]
    assert word in warning


def test_a_model_that_learned_all_classes_of_the_dataset_is_named() -> None:
    episodes = drawn(*[0] * 10)
    origin = {"fold": None, "split": "all", "dataset": episodes.dataset}
    (warning,) = report_of(episodes, **origin)[0]["warnings"]
    assert "trained on all classes of this dataset" in warning


@pytest.mark.parametrize(
    "origin",
    [
        {"head": "trained"},
        {"fold": 0, "split": "interleaved"},
        {"fold": None, "split": "all"},
        {"fold": None, "split": "all", "dataset": "invented:0"},
        {"fold": 1, "split": "interleaved", "dataset": "coco:instances_train"},
    ],
)
def test_nothing_is_warned_of_without_a_reason(origin: dict[str, Any]) -> None:
    assert report_of(drawn(*[0] * 10), **origin)[0]["warnings"] == []


def test_the_table_shows_percent_and_a_dash_where_there_is_no_interval() -> None:
    report, _ = report_of(drawn(0, 0, 1))
    console = Console(width=120, record=True, file=StringIO())
    console.print(table(report))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert rows["thing 0"] == ["2", "60.00", "60.00 - 60.00"]
    assert rows["thing 1"] == ["1", "25.00", "-"]
    assert rows["mIoU"][:2] == ["3", "42.50"]
    assert heading(report) == (
        "a.safetensors on pytorch fp32: 2-shot, 3 episodes of procedural:5, fold 0 (interleaved), protocol exact"
    )


def test_the_protocol_is_told_in_the_report_and_above_the_table() -> None:
    report, _ = report_of(drawn(0, 1), protocol="released")
    assert report["protocol"] == "released"
    assert heading(report).endswith(", protocol released")


def picture(stages: Stages | None) -> Picture:
    image = np.full((30, 40, 3), 90, np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 5:15] = 1
    return Picture(Episode(0, "thing", "q", ("s",)), image, mask, image, mask, mask, stages)


@pytest.mark.parametrize(
    ("stages", "columns"),
    [
        (None, 4),
        (Stages(None, None, None), 4),
        (Stages(np.ones((30, 40), np.uint8), None, None), 5),
        (Stages(*[np.ones((30, 40), np.uint8)] * 3), 7),
    ],
)
def test_the_sheet_has_a_column_for_every_map_that_is_known(stages: Stages | None, columns: int) -> None:
    # cells of 240 x 180 with gaps of 8 under a header of 28
    assert sheet([picture(stages)] * 3).shape == (28 + 3 * 188 + 8, columns * 248 + 8, 3)


def test_the_files_are_written_whole(tmp_path: Path) -> None:
    episodes = drawn(0, 1)
    report, evaluation = report_of(episodes)
    assert set(write_report(tmp_path / "a", report, evaluation, episodes)) == {"report", "episodes"}
    evaluation.pictures.append(picture(None))
    written = write_report(tmp_path / "b", report, evaluation, episodes)
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["episodes.csv", "eval.json", "sheet.png"]
    assert json.loads(written["report"].read_text()) == report
    with Image.open(written["sheet"]) as image:
        assert image.size == (4 * 248 + 8, 28 + 188 + 8)
    with written["episodes"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "class": "1", "class_name": "thing 1", "query": "q1",
        "tp": "10", "fp": "30", "fn": "0", "tn": "160",
    }  # fmt: skip

"""The report: JSON values, terminal table, Markdown and pictures."""

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ntre_deploy.bench.report import build_report, table, write_report
from ntre_deploy.bench.runner import Picture, Result, environment, run_bench
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import InputError

Build = Callable[..., dict[str, Any]]


def result(name: str, milliseconds: Sequence[float], precision: str = "fp32") -> Result:
    """A system with these times and a perfect score on two pixels."""
    made = Result(name, precision)
    for value in milliseconds:
        made.queries.add(1.0, value - 3.0, 2.0)
    made.supports += [30.0, 50.0]
    made.score.add(0, np.ones((1, 2), np.uint8), np.ones((1, 2), np.uint8))
    made.differing.append(0.0)
    made.mask_ious.append(1.0)
    made.logits_errors.append(1.5e-6)
    made.pixels.append(2)
    return made


@pytest.fixture
def build(bundle_of: Callable[..., Any], two_episodes: EpisodeSet) -> Build:
    """A report of these results."""

    def make(*results: Result, skipped: dict[str, str] | None = None, head: str = "trained") -> dict[str, Any]:
        return build_report(
            bundle_of(head=head), two_episodes, results, skipped or {}, environment(2), "ntre bench tiny.ntre"
        )

    return make


@pytest.fixture
def report(build: Build) -> dict[str, Any]:
    """The reference, an engine twice as fast, and one that could not run."""
    return build(
        result("pytorch full", [40.0, 40.4, 39.6]),
        result("onnx-cpu", [20.0, 19.0, 30.0], "fp16"),
        skipped={"onnx-cuda": "no CUDA"},
    )


def test_the_reports_keys(report: dict[str, Any]) -> None:
    assert set(report) == {
        "format",
        "version",
        "command",
        "bundle",
        "episodes",
        "environment",
        "systems",
        "skipped",
        "warnings",
    }
    assert (report["format"], report["version"], report["command"]) == ("ntre-bench", 1, "ntre bench tiny.ntre")
    assert report["bundle"]["files"] == {"query.onnx": 1234}
    assert report["episodes"]["count"] == 2
    assert report["episodes"]["fold"] == 0
    assert re.fullmatch("[0-9a-f]{64}", report["episodes"]["sha256"])
    for system in report["systems"]:
        assert set(system) == {"name", "precision", "latency_ms", "support_ms", "speedup", "accuracy", "parity"}
        assert set(system["latency_ms"]) == {"pre", "compute", "post", "total"}
        for statistics in (*system["latency_ms"].values(), system["support_ms"]):
            assert set(statistics) == {"n", "min", "p50", "p90", "p95", "p99", "max", "mean", "cov"}
        assert set(system["accuracy"]) == {"miou", "fb_iou", "precision", "classes"}
        assert set(system["parity"]) == {"miou_drop", "differing_pixels", "mask_iou", "logits_error"}


def test_the_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_speed_up_is_the_ratio_of_the_medians(report: dict[str, Any]) -> None:
    reference, engine = report["systems"]
    assert reference["speedup"] == 1.0
    assert engine["speedup"] == pytest.approx(40.0 / 20.0)
    assert engine["latency_ms"]["total"]["p50"] == 20.0
    assert engine["latency_ms"]["compute"]["p50"] == 17.0
    assert engine["support_ms"]["mean"] == 40.0


def test_an_unstable_system_is_warned_of_and_a_steady_one_is_not(report: dict[str, Any]) -> None:
    (warning,) = [w for w in report["warnings"] if "CoV" in w]
    assert "onnx-cpu fp16" in warning
    assert "2.5%" in warning


def test_the_report_of_an_engine_that_gives_nan_is_still_json_and_says_so(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, bundle_of: Callable[..., Any]
) -> None:
    systems = [
        constant("A", {"a": (0.0, 1.0), "b": (0.0, 1.0)}),
        constant("B", {"a": (float("nan"), 1.0), "b": (0.0, 1.0)}),
    ]
    results, _ = run_bench(systems, spec, photos, two_episodes)
    report = build_report(bundle_of(), two_episodes, results, {}, environment(1), "ntre bench")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert any("B fp32" in warning and "NaN" in warning for warning in report["warnings"])


def test_the_table_has_a_row_for_every_system(report: dict[str, Any]) -> None:
    stream = io.StringIO()
    Console(file=stream, width=120).print(table(report))
    text = stream.getvalue()
    title = text.splitlines()[0]
    for word in ("tiny", "squeezenet1_1", "33", "1-shot", "2 episodes", "photos", "2 threads"):
        assert word in title
    (row,) = [line for line in text.splitlines() if "onnx-cpu" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["onnx-cpu", "fp16", "20.0", "28.0", "29.8", "2.00 x", "100.00", "0.000 %"]


def markdown(report: dict[str, Any], folder: Path) -> str:
    written = write_report(folder, report, [])
    assert [path.name for path in written] == ["bench.json", "report.md"]
    assert sorted(p.name for p in folder.iterdir()) == ["bench.json", "report.md"]
    assert json.loads(written[0].read_text()) == report
    return written[1].read_text()


def test_the_markdown_tables_are_whole(report: dict[str, Any], tmp_path: Path) -> None:
    text = markdown(report, tmp_path / "deep" / "report")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for found in tables:
        rows = found.splitlines()
        assert len(rows) == 4
        assert len({row.count("|") for row in rows}) == 1
        assert re.fullmatch(r"\|(---\|)+", rows[1])
        assert rows[2].startswith("| pytorch full | fp32 |")
        assert rows[3].startswith("| onnx-cpu | fp16 |")
    assert "| onnx-cpu | fp16 | 20.0 | 28.0 | 29.8 | 2.00 x | 100.00 | 0.000 % |" in tables[0]
    assert "| onnx-cpu | fp16 | 1.00 | 17.00 | 2.00 | 40.0 | 1.5e-06 | 1.0000 |" in tables[1]
    assert "- not run: onnx-cuda: no CUDA" in text
    assert f"- warning: {report['warnings'][0]}" in text
    assert "    ntre bench tiny.ntre" in text
    assert "untrained" not in text
    assert "![" not in text


def test_the_markdown_says_that_an_untrained_head_means_nothing(build: Build, tmp_path: Path) -> None:
    assert "untrained" in markdown(build(result("pytorch full", [40.0]), head="untrained"), tmp_path / "report")


def test_a_single_episode_has_no_support_time_and_a_dash_in_its_place(build: Build, tmp_path: Path) -> None:
    single = result("pytorch full", [40.0])
    single.supports.clear()
    report = build(single)
    assert report["systems"][0]["support_ms"] is None
    assert "| 2.00 | - |" in markdown(report, tmp_path / "report")


def test_pictures_are_written_for_every_system_but_the_cached_reference(report: dict[str, Any], tmp_path: Path) -> None:
    square = np.zeros((20, 30), np.uint8)
    photo = np.full((20, 30, 3), 90, np.uint8)
    systems = ("pytorch full fp32", "pytorch cached fp32", "onnx-cpu fp32")
    hostile = Episode(1, "../../up/table knife", "q", ("s",))
    picture = Picture(hostile, photo, square, photo, square, dict.fromkeys(systems, square + 1))
    written = write_report(tmp_path / "report", report, [picture])
    found = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert sorted(written) == found
    overlays = sorted(p.name for p in (tmp_path / "report" / "overlays").iterdir())
    assert overlays == ["000_..-..-up-table-knife_onnx-cpu-fp32.png", "000_..-..-up-table-knife_pytorch-full-fp32.png"]
    for path in written[2:]:
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
    assert "![support, query, ground truth and masks](sheet.png)" in written[1].read_text()


def test_a_report_that_cannot_be_written_is_an_input_error(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        write_report(tmp_path / "file" / "report", report, [])

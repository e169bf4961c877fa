"""The report: JSON values, terminal tables, Markdown and pictures."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ntre_deploy.bench.footprint import Footprint
from ntre_deploy.bench.report import Run, build_report, costs, schema_text, table, write_report
from ntre_deploy.bench.report.tables import drop
from ntre_deploy.bench.runner import Picture, Result, environment, run_bench
from ntre_deploy.bench.systems import Facts
from ntre_deploy.bench.throughput import Rate
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.errors import InputError

jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema (extra [dev])")

Build = Callable[..., dict[str, Any]]
Make = Callable[..., Result]


def valid(report: dict[str, Any]) -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema, jsonschema.Draft202012Validator)


@pytest.fixture
def full(build: Build, result: Make) -> dict[str, Any]:
    """A report with everything in it."""
    memory = Footprint(150.4, 20.0, 30.6, 130_000_000, 40_000_000, None)
    conditions = {
        "seconds": 3.0,
        "other_cores": 0.9,
        "stolen_cores": 0.4,
        "thermal_events": 3,
        "quota_microseconds": 250_000,
        "gpu_slowdowns": ["sw_thermal_slowdown"],
    }
    run = Run(
        rates=[None, [Rate(1, 50.0, 49.0, 51.0), Rate(2, 80.25, 80.0, 80.5)]],
        footprints=["no answer after 600 s", memory],
        facts=[None, Facts("fp16", "read back from query.onnx at export", {"query.onnx": 1_234_000})],
        conditions=conditions,
        protocol={"harness_overhead_ms": 0.01},
        notes=["1 class left out"],
    )
    engine = result("onnx-cpu", [20.0] * 40, "fp16", episodes=2)
    return build(result("pytorch full", [40.0] * 40, episodes=2), engine, run=run)


def test_the_report_follows_its_published_schema(report: dict[str, Any], full: dict[str, Any]) -> None:
    for content in (report, full):
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        valid(content)
    assert (report["format"], report["version"], report["command"]) == ("ntre-bench", 3, "ntre bench tiny.ntre")
    assert report["bundles"][0]["files"] == {"query.onnx": 1234}
    assert re.fullmatch("[0-9a-f]{64}", report["episodes"]["sha256"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.pop("environment"),
        lambda r: r.update(version=1),
        lambda r: r["systems"][0]["latency_ms"].pop("total"),
        lambda r: r["systems"][0]["latency_ms"]["total"].update(p99="fast"),
        lambda r: r["systems"][0]["accuracy"].update(miou=72.3),
        lambda r: r["systems"][0].update(kind="other"),
        lambda r: r["systems"].clear(),
        lambda r: r["gates"].append({"gate": "max_p50"}),
    ],
)
def test_the_schema_refuses_what_is_no_report(report: dict[str, Any], damage: Callable[[Any], Any]) -> None:
    damage(report)
    with pytest.raises(jsonschema.ValidationError):
        valid(report)


def test_the_speed_up_is_the_ratio_of_the_medians(report: dict[str, Any]) -> None:
    reference, engine = report["systems"]
    assert reference["speedup"] == 1.0
    assert engine["speedup"] == pytest.approx(40.0 / 20.0)
    assert engine["latency_ms"]["total"]["p50"] == 20.0
    assert engine["latency_ms"]["compute"]["p50"] == 17.0
    assert engine["support_ms"]["mean"] == 40.0
    assert engine["samples_ms"] == [20.0, 19.0, 30.0]
    assert [system["kind"] for system in report["systems"]] == ["pytorch", "engine"]


def test_one_episode_has_no_interval_and_several_have(report: dict[str, Any], full: dict[str, Any]) -> None:
    assert report["systems"][1]["parity"]["miou_drop_interval"] is None
    assert report["systems"][1]["accuracy"]["miou_interval"] is None
    assert full["systems"][1]["parity"]["miou_drop_interval"] == [0.0, 0.0]
    assert full["systems"][1]["accuracy"]["miou_interval"] == [1.0, 1.0]


def test_an_unstable_system_is_warned_of_and_a_steady_one_is_not(report: dict[str, Any]) -> None:
    (warning,) = [w for w in report["warnings"] if "CoV" in w]
    assert "onnx-cpu fp16 22%" in warning
    assert "pytorch full" not in warning
    assert "2.5%" in warning


def test_everything_that_spoils_figures_is_warned_of(full: dict[str, Any]) -> None:
    text = "\n".join(full["warnings"])
    for words in (
        "1 class left out",
        "other processes kept 0.9 of",
        "took 0.4 cores away",
        "throttled for its heat (3 events)",
        "CPU quota held the run back for 0.25 s",
        "the GPU was slowed down: sw_thermal_slowdown",
        "pytorch full fp32: load time and memory were not measured: no answer after 600 s",
    ):
        assert words in text
    assert "CoV" not in text
    assert "samples of some system" not in text


def test_a_system_that_becomes_slower_during_the_run_is_warned_of(build: Build, result: Make) -> None:
    report = build(result("pytorch full", [40.0] * 30), result("onnx-cpu", [20.0] * 15 + [25.0] * 15))
    (warning,) = [w for w in report["warnings"] if "slower at the end" in w]
    assert warning == "slower at the end of the run (throttling, or other load): onnx-cpu fp32 by 25%"


def test_a_transfer_bound_engine_is_warned_of(build: Build, result: Make) -> None:
    engine = Result("trt", "fp16")
    source = result("trt", [10.0])
    engine.__dict__.update({k: v for k, v in vars(source).items() if k != "queries"})
    engine.queries.add(1.0, 10.0, 1.0, transfers=(4.0, 1.0))
    (warning,) = [w for w in build(result("pytorch full", [40.0]), engine)["warnings"] if "transfer-bound" in w]
    assert "5.00 ms" in warning


def test_few_samples_and_an_untrained_head_are_warned_of(build: Build, result: Make) -> None:
    warnings = build(result("pytorch full", [40.0]), head="untrained")["warnings"]
    assert any("p99 needs 30 or more, by --seconds" in w for w in warnings)
    assert any("untrained: its mIoU means nothing" in w for w in warnings)


def test_the_report_of_an_engine_that_gives_nan_is_still_json_and_says_so(
    constant: Callable[..., Any], photos: Any, spec: Any, two_episodes: EpisodeSet, bundle_of: Callable[..., Any]
) -> None:
    systems = [
        constant("A", {"a": (0.0, 1.0), "b": (0.0, 1.0)}),
        constant("B", {"a": (float("nan"), 1.0), "b": (0.0, 1.0)}),
    ]
    results, _ = run_bench(systems, spec, photos, two_episodes)
    report = build_report({"tiny": bundle_of()}, two_episodes, results, environment(1), "ntre bench")
    valid(json.loads(json.dumps(report, allow_nan=False)))
    assert report["systems"][1]["parity"]["finite"] is False
    assert any("B fp32" in warning and "NaN" in warning for warning in report["warnings"])


def printed(shown: Any, width: int = 140) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(shown)
    return stream.getvalue()


def test_no_figure_is_cut_on_a_narrow_terminal(build: Build, result: Make) -> None:
    engine = result("openvino", [123.45])
    engine.bundle = "a bundle with a name that is longer than most"
    report = build(result("pytorch full", [2069.1]), engine)
    for shown in (table(report), costs(report)):
        text = printed(shown, width=80)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
    text = printed(table(report), width=80)
    assert "2069" in text
    assert "123.5" in text or "123.4" in text


def cells(text: str, name: str) -> list[str]:
    (row,) = [line for line in text.splitlines() if name in line]
    return re.split(r"\s{2,}", row.strip())


def test_the_table_has_a_row_for_every_system(report: dict[str, Any]) -> None:
    text = printed(table(report))
    for word in ("tiny", "squeezenet1_1", "33", "1-shot", "2 episodes", "photos", "2 threads"):
        assert word in text.splitlines()[0]
    wanted = ["onnx-cpu fp16", "20.0", "28.0", "29.0", "29.8", "2.00 x", "100.00", "0.000 %"]
    assert cells(text, "onnx-cpu") == wanted


def test_the_second_table_tells_what_a_system_costs_besides(full: dict[str, Any]) -> None:
    text = printed(costs(full))
    assert cells(text, "onnx-cpu") == ["onnx-cpu fp16", "40.0", "150", "31", "80.2 (2)", "130", "1.2"]
    assert cells(text, "pytorch full") == ["pytorch full fp32", "40.0", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.0, None, "0.00"),
        (0.01234, [-0.002, 0.03], "+1.23 (-0.20 to +3.00)"),
        (-0.00001, [0.0, 0.0], "0.00 (0.00 to 0.00)"),
    ],
)
def test_a_drop_has_a_sign_and_zero_has_none(value: float, interval: list[float] | None, text: str) -> None:
    assert drop(value, interval) == text


def markdown(report: dict[str, Any], folder: Path) -> str:
    written = write_report(folder, report, [])
    assert sorted(path.name for path in written.values()) == ["bench.json", "report.html", "report.md"]
    assert sorted(p.name for p in folder.iterdir()) == ["bench.json", "report.html", "report.md"]
    assert json.loads(written["JSON"].read_text()) == report
    return written["Markdown"].read_text()


def test_the_markdown_tables_are_whole(report: dict[str, Any], tmp_path: Path) -> None:
    report["gates"] = [
        {"passed": True, "text": "p50 is fine"},
        {"passed": False, "text": "p99 is not"},
    ]
    text = markdown(report, tmp_path / "deep" / "report")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 3
    for found in tables:
        rows = found.splitlines()
        assert len(rows) == 4
        assert len({row.count("|") for row in rows}) == 1
        assert re.fullmatch(r"\|(---\|)+", rows[1])
        assert rows[2].startswith("| pytorch full fp32 |")
        assert rows[3].startswith("| onnx-cpu fp16 |")
    assert "| onnx-cpu fp16 | 20.0 | 28.0 | 29.0 | 29.8 | 2.00 x | 100.00 | 0.000 % |" in tables[0]
    assert "| onnx-cpu fp16 | 100.00 | 100.00 | 0.00 | 0.000 % | 0.000 % | 1.0000 | 1.5e-06 |" in tables[1]
    assert "- not run: onnx-cuda: no CUDA" in text
    assert f"- warning: {report['warnings'][0]}" in text
    assert "    ntre bench tiny.ntre" in text
    assert "- passed: p50 is fine\n- **failed**: p99 is not\n" in text
    assert "![" not in text


def test_a_name_with_a_bar_does_not_break_the_markdown_table(build: Build, result: Make, tmp_path: Path) -> None:
    engine = result("onnx-cpu", [20.0])
    engine.bundle = "a|b"
    assert "| a\\|b: onnx-cpu fp32 |" in markdown(build(result("pytorch full", [40.0]), engine), tmp_path / "report")


def test_a_single_episode_has_no_support_time_and_a_dash_in_its_place(build: Build, result: Make) -> None:
    single = result("pytorch full", [40.0])
    single.supports.clear()
    report = build(single)
    assert report["systems"][0]["support_ms"] is None
    assert cells(printed(costs(report)), "pytorch full")[1] == "-"
    valid(report)


def test_the_sheet_leaves_out_the_cached_reference(report: dict[str, Any], tmp_path: Path) -> None:
    square = np.zeros((20, 30), np.uint8)
    photo = np.full((20, 30, 3), 90, np.uint8)
    systems = ("pytorch full fp32", "pytorch cached fp32", "onnx-cpu fp16")
    hostile = Episode(1, "../../up/table knife", "q", ("s",))
    picture = Picture(hostile, photo, square, photo, square, dict.fromkeys(systems, square + 1))
    written = write_report(tmp_path / "report", report, [picture])
    assert sorted(written.values()) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    with Image.open(written["sheet"]) as image:
        image.load()
        # support, query, ground truth and two systems
        assert (image.mode, image.width) == ("RGB", 5 * 248 + 8)
    assert "![support, query, ground truth and masks](sheet.png)" in written["Markdown"].read_text()


def test_a_report_that_cannot_be_written_is_an_input_error(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        write_report(tmp_path / "file" / "report", report, [])

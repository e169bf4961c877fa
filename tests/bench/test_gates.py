"""Gates: limits in the units of their options, and an earlier run to compare with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.bench.baseline import Baseline, read_baseline
from ntre_deploy.bench.gates import Gates, check_gates, failures
from ntre_deploy.errors import InputError


@pytest.fixture
def baseline(report: dict[str, Any], tmp_path: Path) -> Callable[..., Baseline]:
    """The report of the fixture as an earlier run, changed."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> Baseline:
        content = json.loads(json.dumps(report))
        change(content)
        path = tmp_path / "earlier.json"
        path.write_text(json.dumps(content))
        return read_baseline(path)

    return make


# the engine of the fixture: p50 20 ms, p99 29.8 ms, 2 x as fast as PyTorch, and equal to it
@pytest.mark.parametrize(
    ("limits", "failed"),
    [
        ({}, None),
        ({"max_p50": 20.0, "max_p99": 29.9, "min_speedup": 2.0}, None),
        ({"max_miou_drop": 0.0, "min_pixel_agreement": 100.0}, None),
        ({"max_p50": 19.9}, "p50 20.00 ms, at most 19.90 ms (--max-p50)"),
        ({"max_p99": 29.0, "max_p50": 25.0}, "p99 29.80 ms, at most 29.00 ms (--max-p99)"),
        ({"min_speedup": 2.5}, "speed-up 2.00 x, at least 2.50 x (--min-speedup)"),
    ],
)
def test_a_gate_that_fails_names_the_engine_the_figure_and_the_limit(
    limits: dict[str, float], failed: str | None, report: dict[str, Any]
) -> None:
    checks = check_gates(Gates(**limits), report)
    # PyTorch's own row is not judged
    assert len(checks) == len(limits)
    assert Gates(**limits).asked == bool(limits)
    text = failures(checks)
    if failed is None:
        assert text == ""
    else:
        assert text == f"1 of {len(limits)} gates failed: onnx-cpu fp16: {failed}."


def test_accuracy_is_judged_in_points_and_percent(report: dict[str, Any]) -> None:
    report["systems"][1]["parity"].update(miou_drop=0.004, pixel_agreement=0.9985)
    assert not failures(check_gates(Gates(max_miou_drop=0.5, min_pixel_agreement=99.8), report))
    report["systems"][1]["parity"]["miou_drop"] = -1e-6
    (check,) = check_gates(Gates(max_miou_drop=0.0), report)
    assert check["text"] == "onnx-cpu fp16: mIoU drop 0.00, at most 0.00 (--max-miou-drop)"
    report["systems"][1]["parity"]["miou_drop"] = 0.004
    text = failures(check_gates(Gates(max_miou_drop=0.3, min_pixel_agreement=99.9), report))
    assert "mIoU drop 0.40, at most 0.30 (--max-miou-drop)" in text
    assert "equal pixels 99.8500 %, at least 99.9000 % (--min-pixel-agreement)" in text


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_pixel_agreement": 0.999}, "--min-pixel-agreement 0.999 cannot be used: it is a percentage"),
        ({"min_pixel_agreement": 101.0}, "percentage"),
        ({"max_miou_drop": -1.0}, "points of mIoU"),
        ({"max_p50": 0.0}, "--max-p50 0 cannot be used"),
        ({"max_p99": float("nan")}, "--max-p99 nan cannot be used"),
        ({"min_speedup": float("inf")}, "--min-speedup inf cannot be used"),
        ({"max_slowdown": 5.0}, "add --against"),
    ],
)
def test_a_limit_that_could_only_mislead_is_refused(limits: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Gates(**limits)


def test_a_run_passes_against_itself(report: dict[str, Any], baseline: Callable[..., Baseline]) -> None:
    checks = check_gates(Gates(against=baseline()), report)
    assert [(check["figure"], check["passed"]) for check in checks] == [("p50", True), ("mIoU", True)]


def test_on_the_same_machine_milliseconds_are_compared(
    report: dict[str, Any], baseline: Callable[..., Baseline]
) -> None:
    faster = baseline(lambda r: r["systems"][1]["latency_ms"]["total"].update(p50=17.0))
    text = failures(check_gates(Gates(against=faster), report))
    assert "p50 20.00 ms, at most 18.70 ms (--against, same machine)" in text
    assert not failures(check_gates(Gates(against=faster, max_slowdown=20.0), report))


def test_on_another_machine_speed_ups_are_compared(report: dict[str, Any], baseline: Callable[..., Baseline]) -> None:
    def moved(content: dict[str, Any]) -> None:
        content["environment"]["cpu"] = "another processor"
        content["systems"][1]["latency_ms"]["total"]["p50"] = 1.0
        content["systems"][1]["speedup"] = 2.5

    text = failures(check_gates(Gates(against=baseline(moved)), report))
    assert "speed-up 2.00 x, at least 2.27 x (--against, another machine)" in text
    assert "p50" not in text
    assert not failures(check_gates(Gates(against=baseline(moved), max_slowdown=30.0), report))


def test_without_pytorch_on_its_device_an_engine_has_no_speed_up_to_pass_with(
    report: dict[str, Any], baseline: Callable[..., Baseline]
) -> None:
    def moved(content: dict[str, Any]) -> None:
        content["environment"]["cpu"] = "another processor"
        content["systems"][1]["speedup"] = None

    text = failures(check_gates(Gates(against=baseline(moved)), report))
    assert "no PyTorch on its device in that run, so no speed-up (--against, another machine)" in text
    report["systems"][1] |= {"speedup": None, "speedup_against": None}
    text = failures(check_gates(Gates(min_speedup=0.001), report))
    assert text.endswith("onnx-cpu fp16: no PyTorch on its device here, so no speed-up (--min-speedup).")


def test_accuracy_may_not_fall_behind_an_earlier_run(report: dict[str, Any], baseline: Callable[..., Baseline]) -> None:
    earlier = baseline()
    report["systems"][1]["accuracy"]["miou"] = 0.995
    text = failures(check_gates(Gates(against=earlier), report))
    assert "mIoU 99.50, at least 99.90 (--against)" in text
    assert not failures(check_gates(Gates(against=earlier, max_miou_drop=0.6), report))


def test_an_engine_that_has_vanished_fails(report: dict[str, Any], baseline: Callable[..., Baseline]) -> None:
    earlier = baseline()
    report["systems"][1]["precision"] = "fp32"
    text = failures(check_gates(Gates(against=earlier), report))
    assert "tiny: onnx-cpu fp16 is in" in text
    assert "did not run here" in text


def test_other_episodes_cannot_be_compared(baseline: Callable[..., Baseline]) -> None:
    earlier = baseline()
    earlier.check_episodes(earlier.episodes)
    with pytest.raises(InputError, match="other episodes; write them to a file once with --episodes FILE"):
        earlier.check_episodes("0" * 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("{", "not readable JSON"),
        ("[]", "is no report of `ntre bench`"),
        ('{"format": "ntre-eval"}', "is no report of `ntre bench`"),
        ('{"format": "ntre-bench", "version": 1}', "has version 1 of the report; this version of ntre reads 3"),
        ('{"format": "ntre-bench", "version": 3}', "lacks figures"),
        ('{"format": "ntre-bench", "version": 3, "environment": 3}', "lacks figures"),
    ],
)
def test_what_is_no_baseline_is_refused(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_baseline(path)

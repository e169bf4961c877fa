"""The harness itself: what it measures of systems whose times and answers are known."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ntre_deploy.bench.gates import Gates, check_gates, failures
from ntre_deploy.bench.report import build_report
from ntre_deploy.bench.runner import Result, environment, overhead, run_bench
from ntre_deploy.data.episodes import Episode, EpisodeSet

YES, NO, NAN = (0.0, 2.0), (2.0, 0.0), (float("nan"), float("nan"))
RIGHT = {"a": YES, "b": YES}


class Sleeper:
    """Right, and as slow as its list of seconds says; notes by another clock how long each sleep really was."""

    precision = "fp32"
    device = "cpu"

    def __init__(self, name: str, inner: Any, seconds: list[float]) -> None:
        self.name = name
        self.inner = inner
        self.seconds = seconds
        self.slept: list[float] = []

    def prepare(self, shots: Any) -> Any:
        return self.inner.prepare(shots)

    def compute(self, pixels: Any, state: Any) -> Any:
        start = time.monotonic_ns()
        time.sleep(self.seconds[len(self.slept) % len(self.seconds)])
        self.slept.append((time.monotonic_ns() - start) / 1e6)
        return self.inner.compute(pixels, state)


Run = Callable[..., tuple[list[Result], dict[str, Any]]]


@pytest.fixture
def judged(photos: Any, spec: Any, bundle_of: Callable[..., Any], constant: Callable[..., Any]) -> Run:
    """Results and report of a right reference and one other system, over episodes of photo a."""

    def run(make: Callable[[Any], Any], count: int = 4) -> tuple[list[Result], dict[str, Any]]:
        episodes = EpisodeSet("photos", "all", None, 1, 0, (Episode(0, "fork", "a", ("s",)),) * count)
        systems = [constant("pytorch full", RIGHT), make(constant)]
        results, _ = run_bench(systems, spec, photos, episodes)
        report = build_report({"tiny": bundle_of()}, episodes, results, environment(1), "ntre bench")
        return results, report

    return run


def test_a_known_sleep_is_measured_within_two_percent(judged: Run) -> None:
    made: list[Sleeper] = []

    def sleeper(constant: Callable[..., Any]) -> Sleeper:
        made.append(Sleeper("engine", constant("engine", RIGHT), [0.1]))
        return made[0]

    results, report = judged(sleeper, count=8)
    measured = results[1].queries.parts["compute"]
    # the warm-up comes before the samples; how late the system wakes a sleeper is no matter of the harness
    slept = made[0].slept[-len(measured) :]
    # between its clock and the sleeper's, the system may give the processor to others, in a few of the samples
    assert float(np.median(np.array(measured) / slept)) == pytest.approx(1, rel=0.02)
    assert (np.array(measured) >= slept).all()
    assert report["systems"][1]["latency_ms"]["compute"]["p50"] == pytest.approx(float(np.median(measured)))
    total = np.array(results[1].queries.parts["total"])
    assert (total >= np.array(measured)).all()


def test_an_engine_that_alternates_keeps_its_tail(judged: Run) -> None:
    # 40 ms in one query of four; the warm-up takes at least 0.2 s and two queries
    pattern = [0.002, 0.002, 0.002, 0.04]
    _, report = judged(lambda constant: Sleeper("engine", constant("engine", RIGHT), pattern), count=40)
    system = report["systems"][1]
    latency = system["latency_ms"]["compute"]
    assert latency["n"] == len(system["samples_ms"]) == 40
    assert sum(sample >= 40 for sample in system["samples_ms"]) >= 10
    assert latency["p50"] < 40 <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert latency["cov"] > 0.25
    assert any("CoV" in warning and "engine" in warning for warning in report["warnings"])


def test_an_engine_that_returns_zeros_fails_parity(judged: Run) -> None:
    _, report = judged(lambda constant: constant("engine", {"a": (0.0, 0.0)}))
    checks = check_gates(Gates(max_miou_drop=1.0, min_pixel_agreement=99.0), report)
    assert [(c["gate"], c["passed"]) for c in checks] == [("max_miou_drop", False), ("min_pixel_agreement", False)]


@pytest.mark.parametrize("limit", ["max_miou_drop", "min_pixel_agreement"])
def test_an_engine_that_returns_nan_fails_parity_however_lax_it_is(limit: str, judged: Run) -> None:
    _, report = judged(lambda constant: constant("engine", {"a": NAN}))
    checks = check_gates(Gates(**{limit: {"max_miou_drop": 100.0, "min_pixel_agreement": 1.5}[limit]}), report)
    assert "engine fp32: logits hold NaN or infinity" in failures(checks)


def test_an_engine_that_is_nan_where_the_reference_sees_nothing_fails_parity_too(
    photos: Any, spec: Any, bundle_of: Callable[..., Any], constant: Callable[..., Any], two_episodes: EpisodeSet
) -> None:
    # both masks are empty, and every pixel agrees
    systems = [constant("pytorch full", {"a": NO, "b": NO}), constant("engine", {"a": NAN, "b": NAN})]
    results, _ = run_bench(systems, spec, photos, two_episodes)
    report = build_report({"tiny": bundle_of()}, two_episodes, results, environment(1), "ntre bench")
    assert report["systems"][1]["parity"]["pixel_agreement"] == 1.0
    assert failures(check_gates(Gates(min_pixel_agreement=99.0), report))


def test_an_engine_that_is_right_and_slow_passes_parity_and_fails_the_gates_of_speed(judged: Run) -> None:
    _, report = judged(lambda constant: Sleeper("engine", constant("engine", RIGHT), [0.02]))
    gates = Gates(max_miou_drop=0.0, min_pixel_agreement=100.0, max_p50=10.0, max_p99=10.0, min_speedup=1.0)
    passed = {check["gate"]: check["passed"] for check in check_gates(gates, report)}
    assert passed == {
        "max_miou_drop": True,
        "min_pixel_agreement": True,
        "max_p50": False,
        "max_p99": False,
        "min_speedup": False,
    }


def test_the_harness_tells_its_own_overhead(record_property: Callable[[str, object], None]) -> None:
    found = overhead(200)
    record_property("harness_overhead_ms", found)
    # the figure is 0.2 ms per query; a median is not moved by what else happens on the machine
    assert 0 < found < 0.2

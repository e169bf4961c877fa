"""Samples of time and their statistics."""

import time

import pytest

from ntre_deploy.bench.latency import Samples, drift, summarise, timed, warm_up


def test_statistics_of_known_values() -> None:
    found = summarise([float(v) for v in range(101, 0, -1)])  # 1 to 101
    assert found["n"] == 101
    assert (found["min"], found["max"], found["mean"]) == (1.0, 101.0, 51.0)
    assert (found["p50"], found["p90"], found["p95"], found["p99"]) == (51.0, 91.0, 96.0, 100.0)
    assert found["cov"] == pytest.approx(((101**2 - 1) / 12) ** 0.5 / 51)


def test_percentiles_interpolate() -> None:
    found = summarise([10.0, 20.0])
    assert (found["p50"], found["p90"], found["cov"]) == (15.0, 19.0, pytest.approx(5 / 15))


def test_one_value_is_all_of_its_statistics() -> None:
    assert summarise([7.0]) == dict.fromkeys(("min", "p50", "p90", "p95", "p99", "max", "mean"), 7.0) | {
        "n": 1,
        "cov": 0.0,
    }


def test_no_sample_is_dropped_and_the_total_is_the_sum_of_the_parts() -> None:
    samples = Samples()
    samples.add(1.0, 10.0, 2.0)
    samples.add(1.0, 1000.0, 2.0)
    assert samples.parts == {"pre": [1.0, 1.0], "compute": [10.0, 1000.0], "post": [2.0, 2.0], "total": [13.0, 1003.0]}
    assert samples.summary()["total"]["max"] == 1003.0


def test_two_samples_share_nothing() -> None:
    first, second = Samples(), Samples()
    first.add(1.0, 1.0, 1.0)
    assert second.summary() == {}
    with pytest.raises(ValueError):
        first.add(1.0, 1.0)


def test_timed_gives_the_result_and_milliseconds() -> None:
    result, spent = timed(lambda: time.sleep(0.02) or "done")
    assert result == "done"
    assert spent >= 20


def test_warm_up_calls_at_least_as_often_as_asked_and_as_long() -> None:
    calls: list[float] = []
    warm_up(lambda: calls.append(time.perf_counter()), seconds=0.0, least=3)
    assert len(calls) == 3
    calls.clear()
    start = time.perf_counter()
    warm_up(lambda: calls.append(time.perf_counter()), seconds=0.05, least=1)
    assert time.perf_counter() - start >= 0.05
    assert len(calls) > 1


def test_the_way_to_the_device_and_back_is_cut_out_of_compute() -> None:
    samples = Samples()
    samples.add(1.0, 10.0, 2.0, transfers=(3.0, 0.5))
    assert {name: values[0] for name, values in samples.parts.items()} == {
        "pre": 1.0,
        "h2d": 3.0,
        "compute": 6.5,
        "d2h": 0.5,
        "post": 2.0,
        "total": 13.0,
    }
    assert list(samples.summary()) == ["pre", "h2d", "compute", "d2h", "post", "total"]
    assert samples.seconds == pytest.approx(0.013)


def test_drift_compares_the_last_third_with_the_first() -> None:
    assert drift([10.0] * 30) == 1.0
    assert drift([10.0] * 10 + [99.0] * 10 + [15.0] * 10) == 1.5
    assert drift([7.0]) == 1.0

"""The benchmark of `ntre segment`: its commands run on a real bundle, and their figures hang together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "pipeline"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS), *words], capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_a_clip_is_timed_against_the_engine(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.json"
    done = command("clip", str(exported), "--frames", "10", "--rounds", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["command"].startswith("python benchmarks/pipeline clip")
    assert len(found["rounds"]) == 2
    for row in found["rounds"]:
        assert 0 < row["engine_busy"] < 1
        assert row["bench_compute_ms"] < row["bench_total_ms"]
    assert "of the rate of `ntre bench`" in done.stdout


@pytest.mark.slow
def test_photos_are_timed_one_after_the_other_and_side_by_side(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.json"
    done = command("photos", str(exported), "--count", "2", "--rounds", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(found["engine_busy"]) == {"before", "after", "exact"}
    assert found["times_faster"]["before"] == 1
    assert found["times_faster"]["after"] > 1.5


@pytest.mark.slow
def test_memory_over_a_clip_is_judged(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    done = command("memory", str(exported), "--frames", "300", "--out", str(out))
    # so short a run may still be warming up
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(out.read_text())
    assert found["frames"] == 300
    assert "growth" in found["usage"]
    assert found["usage"]["resident_bytes_at_end"] > 2**24


@pytest.mark.slow
def test_reduced_readings_are_compared(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "reading.json"
    done = command("reading", str(exported), "--dataset", "procedural:3", "--count", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["factor"] for row in rows] == [2, 8]
    for row in rows:
        assert 0 <= row["changed"] <= 1
        assert row["low"] <= row["miou_change"] <= row["high"]


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = command("clip", str(tmp_path / "none.ntre"), "--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1

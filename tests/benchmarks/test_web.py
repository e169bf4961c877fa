"""The benchmark of the web runtime runs on a real bundle in Chromium, and its figures hang together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "web"
FOLDER = "web"


@pytest.mark.slow
def test_webassembly_is_timed_against_onnx_runtime(exported: Path, tmp_path: Path) -> None:
    from pages import chromium_missing  # type: ignore[import-not-found]

    if reason := chromium_missing():
        pytest.skip(reason)
    out = tmp_path / "web.json"
    command = [sys.executable, str(SCRIPTS), str(exported), "--rounds", "2", "--count", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["command"].startswith("python benchmarks/web")
    assert found["package_bytes"] < 300_000
    assert [page["threads"] for page in found["pages"].values()] == [1, 2]
    systems = found["systems"]
    assert set(systems) == {"native, 1 thread", "native, threads", "wasm, 1 thread", "wasm, threads"}
    assert systems["native, 1 thread"]["query_ratio"] == 1
    for one in systems.values():
        assert 0 < one["query_ms"] < 60_000
    assert systems["wasm, 1 thread"]["equal_pixels"] > 0.999
    assert len(found["rounds"]) == 2


def test_what_is_missing_is_told(exported: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    environment.pop("CHROMIUM", None)
    command = [sys.executable, str(SCRIPTS), str(exported), "--out", str(tmp_path / "web.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 3
    assert done.stderr == "error: Chromium is not installed (apt-get install chromium).\n"

"""The benchmark of the runtimes side by side runs on a real bundle, and its figures hang together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "runtimes"


@pytest.mark.slow
@pytest.mark.openvino
def test_python_and_cpp_are_timed_beside_the_engine(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    pytest.importorskip("openvino")
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: the C++ runtime cannot be built")
    bundle, out = tmp_path / "tiny.ntre", tmp_path / "runtimes.json"
    export_bundle(tiny_checkpoint, bundle, ExportOptions(engines=("onnx", "openvino")))
    command = [sys.executable, str(SCRIPTS), str(bundle), "--rounds", "1", "--count", "2", "--loads", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["command"].startswith("python benchmarks/runtimes")
    systems = found["systems"]
    assert {"python", "cpp", "engine"} <= set(systems)
    assert ("web" in systems) != ("web" in found["skipped"])
    assert systems["python"]["whole"]["ratio"] == 1
    assert systems["cpp"]["equal_pixels"] > 0.9999
    assert systems["cpp"]["memory_mb"]["all"] > systems["cpp"]["memory_mb"]["anonymous"] > 1
    assert systems["cpp"]["of_python"]["library"]["passed"]


def test_what_is_missing_is_told(exported: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    command = [sys.executable, str(SCRIPTS), str(exported), "--out", str(tmp_path / "runtimes.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "is not installed" in done.stderr

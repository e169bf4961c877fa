"""`ntre demo`: the bundled model on its way to masks and a report."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ntre_deploy.runtime.bundle import Bundle

Done = subprocess.CompletedProcess[str]


@pytest.mark.slow
def test_the_demo_exports_segments_and_measures(ntre: Callable[..., Done], tmp_path: Path) -> None:
    # fails until ntre_deploy/assets/demo.safetensors is there
    done = ntre("demo", "--out", "out", "--count", "2", "--threads", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in out.iterdir()} >= {
        "demo.ntre",
        "segmented",
        "bench.json",
        "report.html",
        "report.md",
        "sheet.png",
    }
    origin = Bundle.open(out / "demo.ntre").manifest.model.origin
    assert origin["head"] == "trained"
    report = json.loads((out / "bench.json").read_text())
    assert report["episodes"]["fold"] == origin["fold"]
    assert report["episodes"]["count"] == 2
    systems = {s["name"]: s for s in report["systems"]}
    assert set(systems) >= {"pytorch full", "pytorch cached", "onnx-cpu"}
    # at least three seconds and 30 samples of each
    for system in systems.values():
        assert system["latency_ms"]["total"]["n"] >= 30
        assert sum(system["samples_ms"]) >= 3000
    assert (out / "report.html").stat().st_size < 3_000_000
    assert systems["onnx-cpu"]["parity"]["differing_pixels"] < 1e-3
    for path in (out / "sheet.png", out / "segmented" / "sheet.png", *(out / "segmented").glob("*.overlay.png")):
        with Image.open(path) as image:
            image.load()
    for step in ("1/3", "2/3", "3/3"):
        assert any(line.startswith(step) for line in done.stdout.splitlines())

"""`ntre demo`: the bundled model on its way to masks and a report."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.model.registry import MODELS
from ntre_deploy.runtime.bundle import Bundle

Done = subprocess.CompletedProcess[str]


@pytest.mark.slow
def test_the_demo_exports_segments_and_measures(ntre: Callable[..., Done], tmp_path: Path) -> None:
    photos = MODELS["photos"].missing is None
    done = ntre("demo", "--out", "out", "--count", "2", "--threads", "1", cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    # the last step says which engine it took
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == (["engine"] if photos else [])
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
    for path in (out / "sheet.png", out / "segmented" / "sheet.png", *(out / "segmented").glob("*.overlay.jpg")):
        with Image.open(path) as image:
            image.load()
    steps = 4 if photos else 3
    for step in range(1, steps + 1):
        assert any(line.startswith(f"{step}/{steps}") for line in done.stdout.splitlines())
    if photos:
        mask = np.asarray(Image.open(out / "photo" / "street.png"))
        # two buses, in the middle and behind it
        assert 0.05 < (mask == 1).mean() < 0.5

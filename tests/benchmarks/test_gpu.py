"""The GPU script, tried out on the CPU with a tiny network: every stage that needs no GPU must give its figures."""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.runtime.cuda import unavailable

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu"


def run(out: Path, stages: str, budget: str = "300", *more: str) -> dict[str, Any]:
    command = [sys.executable, "-P", SCRIPT / "main.py", "--out", out, "--device", "cpu", "--quick", "--most", "300"]
    subprocess.run([*command, "--stages", stages, "--budget", budget, *more], check=False, capture_output=True)
    report: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return report


@pytest.mark.slow
def test_stages_measure_what_they_say(tmp_path: Path) -> None:
    measured = (
        "machine,kernels,torch:resnet50,whole:resnet50,compile-cached:resnet50,export:resnet50,engines:resnet50,demo"
    )
    report = run(tmp_path, f"{measured},nonsense", "600")
    stages = report["stages"]
    assert stages.pop("nonsense")["status"] == "failed with exit code 1"
    assert {stage["status"] for stage in stages.values()} == {"done"}, stages
    found = stages["machine"]["result"]
    assert found["matmul_float32_tflop_per_s"] > 0
    assert found["versions"]["torch"]
    figures = stages["engines:resnet50"]["result"]["onnx-cpu fp16 1-shot batch 2 N 1"]
    assert figures["n"] >= 1
    assert 0 < figures["min"] <= figures["p50"] <= figures["p99"]
    assert figures["logits_error"] < 0.2
    assert "wall clock" in figures["how"]
    demo = stages["demo"]["result"]
    assert demo["onnx-cpu fp16"]["accuracy"]["miou"] > 0.3
    assert demo["onnx-cpu fp16"]["parity"]["pixel_agreement"] > 0.99
    eager = stages["torch:resnet50"]["result"]
    assert eager["eager full fp32 1-shot batch 1 N 1"]["p50"] > eager["eager cached fp32 1-shot batch 1 N 1"]["p50"]
    for mode, error in (("fp32", 1e-6), ("tf32", 1e-6), ("fp16", 0.1), ("bf16", 0.5)):
        for way in ("full", "cached"):
            figures = eager[f"eager {way} {mode} 1-shot batch 1 N 1"]
            assert figures["logits_error"] <= error, (way, mode)
            assert figures["equal_places"] > 0.8
            # as far from fp32 as 16 bits are, so it was in 16 bits
            assert (figures["logits_error"] > 1e-5) == (mode in ("fp16", "bf16"))
    compiled = stages["compile-cached:resnet50"]["result"]["compile reduce-overhead cached fp32 1-shot batch 1 N 1"]
    assert compiled["logits_error"] < 1e-3
    assert list((tmp_path / "inductor").rglob("*.so")), "something was compiled, and kept for the next stage"
    assert stages["whole:resnet50"]["result"]["pytorch fp32 end to end 1920 x 1080"]["n"] >= 1
    again = run(tmp_path / "gpu", "export:resnet50", "100", "--prepared", str(tmp_path))["stages"]["export:resnet50"]
    assert again["result"]["taken from"] == str(tmp_path / "resnet50.ntre")
    assert (tmp_path / "gpu" / "resnet50.ntre" / "manifest.json").is_file()
    if unavailable() is not None:
        assert stages["kernels"]["result"]["kernels"]["exit_code"] == 3


def test_a_stage_without_time_is_not_begun(tmp_path: Path) -> None:
    report = run(tmp_path, "machine", "1")
    assert report["stages"]["machine"]["status"] == "no time left"


def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a driver here")
    done = subprocess.run(["bash", SCRIPT / "run.sh", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "no NVIDIA GPU is here" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the script is for Linux")
def test_the_script_takes_a_folder_anywhere(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    driver = tools / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho some GPU\n")
    driver.chmod(0o755)
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": sys.executable, "BUDGET": "1"}
    for out in ("relative", str(tmp_path / "absolute")):
        done = subprocess.run(
            ["bash", SCRIPT / "run.sh", out], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("some GPU\nmachine: no time left"), done.stdout + done.stderr
        assert json.loads((tmp_path / out / "gpu.json").read_text())["device"] == "cuda"


def test_the_network_on_the_device_leaves_the_one_that_graphs_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT))
    from networks import Networks

    # a device that is not the CPU, without values; building the calls is what failed on a GPU
    labels = [run.label for run in Networks(True, "resnet50", "meta").eager()]
    del sys.modules["networks"]
    assert [label.split(" 1-shot")[0] for label in labels] == [
        f"eager {way} {mode}" for mode in ("fp32", "tf32", "fp16", "bf16") for way in ("full", "cached", "cached")
    ]


def test_a_compiled_module_that_has_no_length_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT))
    import torch
    from networks import Networks

    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    (run,) = Networks(True, "resnet50", "cpu").compiled("reduce-overhead", full=True)
    del sys.modules["networks"]
    torch.testing.assert_close(run.call(), run.reference())


def test_a_stage_that_hangs_is_stopped_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("gpu_main", SCRIPT / "main.py")
    assert spec is not None
    assert spec.loader is not None
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    (tmp_path / "stages.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path(sys.argv[2]).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(main, "HERE", tmp_path)
    found = main._run(
        "tests", argparse.Namespace(out=tmp_path, device="cpu", quick=True, most=3.0, prepared=None), 100.0
    )
    assert found["status"] == "stopped after 3 s"
    child = Path(f"/proc/{found['result']}/stat")
    for _ in range(200):
        # gone, or dead and waiting for its new parent; a signal takes its time
        if not child.is_file() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the stage has started still runs")

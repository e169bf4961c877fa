"""The comparison of the kernels: its PyTorch sides give what the runtime gives, and without a GPU it says so."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image

FOLDER = Path(__file__).parents[2] / "benchmarks" / "kernels"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script's cases, under plain names that must not stay behind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import cases

    yield cases
    for name in ("cases", "baselines"):
        del sys.modules[name]


@pytest.fixture
def baselines(scripts: ModuleType) -> ModuleType:
    return scripts.baselines


@pytest.fixture
def on_cpu(emulated: Any) -> Kernels:
    """The kernels in the emulator: a tensor's address on the CPU is one that they can use."""
    emulated.reversed = False
    return Kernels(emulated, emulated.compute_capability)


def check(case: Any) -> None:
    case.out.fill_(9)
    case.kernel(0)
    assert case.disagreement() < 1e-3
    case.out.add_(1)  # the check can fail
    assert case.disagreement() > 0.5


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920)])
def test_the_preparation_agrees_with_pytorch(scripts: ModuleType, on_cpu: Kernels, height: int, width: int) -> None:
    check(scripts.prepare_case(on_cpu, "cpu", height, width))


@pytest.mark.parametrize("classes", [1, 10])
def test_the_labels_agree_with_pytorch(scripts: ModuleType, on_cpu: Kernels, classes: int) -> None:
    check(scripts.labels_case(on_cpu, "cpu", 480, 640, classes))


@pytest.mark.parametrize(("height", "width"), [(60, 90), (300, 200)])
def test_the_side_of_pytorch_prepares_as_the_runtime(baselines: ModuleType, height: int, width: int) -> None:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    spec = InputSpec(129)
    expected, box = prepare_image(ramp, spec)
    got = baselines.prepare(torch.from_numpy(ramp), box, *baselines.colours(spec, "cpu"), torch.float32).numpy()
    # a ramp, so that the two ways to average differ little: a grey level and a half
    assert np.abs(got - expected).max() < 1.5 / min(spec.std)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_side_of_pytorch_labels_as_the_runtime(baselines: ModuleType, classes: int) -> None:
    box = Letterbox.fit(70, 110, 65)
    logits = np.random.default_rng(0).normal(0, 3, (classes, 2, 9, 9)).astype(np.float32)
    got = baselines.labels(torch.from_numpy(logits), *baselines.back_maps(box, 9, 9, "cpu")).numpy()
    assert (got != label_map(logits, box)).mean() < 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        "error: These comparisons need a CUDA device and a PyTorch built for it; there is none here.\n"
    )
    assert list(tmp_path.iterdir()) == []

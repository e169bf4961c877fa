"""Packages that do not go together, from pip's records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ntre_deploy.doctor.packages import conflicts, packages, version

Installed = Callable[..., None]


@pytest.mark.parametrize(("gpu", "keep"), [(False, "onnxruntime"), (True, "onnxruntime-gpu")])
def test_two_flavours_of_onnxruntime_are_a_problem(gpu: bool, keep: str, installed: Installed) -> None:
    installed("onnxruntime", "1.22.0")
    installed("onnxruntime-gpu", "1.22.0")
    found = {f.subject: f for f in conflicts(gpu)}["onnxruntime flavours"]
    assert found.status == "problem"
    assert found.fix == f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {keep}"


def test_two_flavours_of_opencv_are_a_warning(installed: Installed) -> None:
    installed("opencv-python", "5.0.0")
    found = {f.subject: f for f in conflicts(False)}["opencv flavours"]
    assert found.status == "warning"
    assert "opencv-python" in found.fix


def test_a_torchvision_for_another_torch_is_a_warning(installed: Installed) -> None:
    installed("torch", "2.13.0+cpu")
    installed("torchvision", "0.28.1", "numpy", "torch==2.13.1")
    found = {f.subject: f for f in conflicts(False)}["torchvision"]
    assert found.status == "warning"
    assert "goes with torch 2.13.1, and 2.13.0+cpu" in found.text


def test_a_torchvision_for_this_torch_is_fine(installed: Installed) -> None:
    installed("torch", "2.13.0+cpu")
    installed("torchvision", "0.28.0", "torch==2.13.0")
    assert "torchvision" not in {f.subject for f in conflicts(False)}


def test_a_package_whose_module_is_gone_is_a_problem(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("openvino", "2025.0.0")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = {f.subject: f for f in packages(False)}["openvino"]
    assert found.status == "problem"
    assert found.fix == "pip install --force-reinstall --no-deps openvino==2025.0.0"


@pytest.mark.parametrize(
    ("told", "gpu", "status", "words"),
    [
        ("cuda: Optional[str] = None", False, "ok", "for the CPU alone"),
        ("cuda: Optional[str] = None", True, "warning", "for the CPU alone, and there is a GPU"),
        ("cuda: Optional[str] = '12.8'", True, "ok", "for CUDA 12.8"),
        ("cuda = '13.0'", False, "ok", "for CUDA 13.0"),
    ],
)
def test_a_torch_without_cuda_is_named_where_there_is_a_gpu(
    told: str, gpu: bool, status: str, words: str, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the doctor must not import this')\n")
    (folder / "version.py").write_text(f"from typing import Optional\n{told}\nhip = None\n")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    installed("torch", "9.9.9")
    found = {f.subject: f for f in packages(gpu)}["torch"]
    assert found.status == status
    assert words in found.text
    assert "9.9.9" in found.text


def test_the_real_torch_tells_whether_it_has_cuda() -> None:
    torch = pytest.importorskip("torch")
    found = {f.subject: f for f in packages(False)}["torch"]
    assert version("torch") in found.text
    assert ("for CUDA" in found.text) == (torch.version.cuda is not None)

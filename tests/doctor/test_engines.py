"""The small graph, and what runs it."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ntre_deploy.doctor import diagnose
from ntre_deploy.doctor.graph import ONNX, inputs, off_by
from ntre_deploy.doctor.probe import Probe, run_probes


def test_the_graph_is_what_its_description_says() -> None:
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT

    def port(name: str, shape: list[int]) -> object:
        return make.make_tensor_value_info(name, kind, shape)

    nodes = [("Conv", ["x", "w"], ["c"]), ("Relu", ["c"], ["r"]), ("MatMul", ["r", "r"], ["y"])]
    ports = [port("x", [1, 2, 6, 6]), port("w", [2, 2, 3, 3])]
    graph = make.make_graph([make.make_node(*n) for n in nodes], "g", ports, [port("y", [1, 2, 4, 4])])
    wanted = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    assert onnx.load_from_string(ONNX) == wanted
    onnx.checker.check_model(wanted, full_check=True)


def test_onnx_runtime_gives_the_answer_and_a_wrong_one_is_seen() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (y,) = onnxruntime.InferenceSession(ONNX, providers=["CPUExecutionProvider"]).run(None, inputs())
    assert np.abs(y).max() > 0.1
    assert off_by(y) is None
    assert "off by" in str(off_by(y * 1.1))
    assert "off by" in str(off_by(y * 0))
    assert "off by nan" in str(off_by(y * np.nan))
    assert "shape" in str(off_by(y[..., 0]))


def test_the_processor_runs_it_in_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime")
    found = {f.subject: f for f in run_probes([Probe("onnxruntime")])["onnxruntime"]}
    assert found["CPUExecutionProvider"].status == "ok"
    assert "AzureExecutionProvider" not in found


def test_a_provider_that_gives_zeros_is_a_problem(package: Callable[[str, str], Path]) -> None:
    # imitates the calls that the probe makes: no real provider gives wrong numbers on demand
    package(
        "onnxruntime",
        "import numpy as np\n__version__ = '1'\n"
        "def get_available_providers(): return ['CPUExecutionProvider']\n"
        "class SessionOptions: pass\n"
        "class InferenceSession:\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def get_providers(self): return ['CPUExecutionProvider']\n"
        "    def run(self, names, inputs): return [np.zeros((1, 2, 4, 4), np.float32)]\n",
    )
    found = {f.subject: f for f in run_probes([Probe("onnxruntime")])["onnxruntime"]}
    assert found["CPUExecutionProvider"].status == "problem"
    assert "off by 1.0e+00" in found["CPUExecutionProvider"].text
    report = {f.subject: f for f in diagnose()}
    assert report["engine onnx-cpu"].status == "absent"
    assert report["engine onnx-cpu"].text == "CPUExecutionProvider does not run a graph"


def test_a_half_removed_onnx_runtime_is_a_problem(package: Callable[[str, str], Path]) -> None:
    # what `pip uninstall onnxruntime-gpu` leaves of `onnxruntime`
    (package("unused", "") / "onnxruntime").mkdir()
    (package("unused", "") / "onnxruntime" / "__init__.py").write_text("")
    (found,) = run_probes([Probe("onnxruntime")])["onnxruntime"]
    assert found.status == "problem"
    assert "get_available_providers" in found.text
    assert "--force-reinstall" in found.fix


def test_openvino_runs_it_on_the_processor() -> None:
    pytest.importorskip("openvino")
    found = {f.subject: f for f in run_probes([Probe("openvino", seconds=60)])["openvino"]}
    assert found["openvino CPU"].status == "ok"


def test_what_is_not_installed_has_no_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = sys.modules['tensorrt'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run_probes([Probe("openvino")])["openvino"]
    assert found == []
    assert sys.executable

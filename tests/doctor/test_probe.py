"""What crashes, hangs or shouts in a probe is a line of the report, and the rest of the report is there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ntre_deploy.doctor import diagnose
from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.probe import Probe, run_probes

Package = Callable[[str, str], Path]

_CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
_RTX = "__version__ = '1.7.0'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): pass\n"


def only(name: str, seconds: float = 30.0) -> list[Finding]:
    return run_probes([Probe(name, seconds=seconds)])[name]


def of_tensorrt(seconds: float = 30.0) -> list[Finding]:
    """Of `tensorrt` alone: TensorRT for RTX may really be installed."""
    return [f for f in only("tensorrt", seconds) if f.subject != "tensorrt_rtx builder"]


def test_a_package_that_crashes_is_one_problem_and_the_rest_is_tried(package: Package) -> None:
    package("tensorrt", _CRASH)
    package("tensorrt_rtx", f"{_RTX}class Builder:\n    def __init__(self, logger): pass\n")
    found = {f.subject: f for f in only("tensorrt")}
    assert set(found) == {"tensorrt builder", "tensorrt_rtx builder"}
    assert found["tensorrt builder"].status == "problem"
    assert "crashes (SIGSEGV)" in found["tensorrt builder"].text
    assert found["tensorrt builder"].fix
    assert found["tensorrt_rtx builder"].status == "ok"
    assert "1.7.0 (major 1)" in found["tensorrt_rtx builder"].text


def test_a_package_that_hangs_is_stopped(package: Package) -> None:
    package("tensorrt", "import time\ntime.sleep(1000)\n")
    (found,) = of_tensorrt(seconds=2)
    assert (found.subject, found.status) == ("tensorrt builder", "problem")
    assert "no answer within 2 s" in found.text


def test_a_package_that_writes_on_stdout_does_not_garble_the_report(package: Package) -> None:
    package(
        "tensorrt", "import os\nprint('{\"status\": 1}')\nos.write(1, b'hello')\nraise ImportError('no libnvinfer')\n"
    )
    (found,) = of_tensorrt()
    assert found.status == "problem"
    assert "without its libraries: no libnvinfer" in found.text


def test_a_probe_that_cannot_even_begin_says_why(package: Package) -> None:
    package("numpy", "raise RuntimeError('compiled for another machine')\n")
    (found,) = only("engines")
    assert found.status == "problem"
    assert "compiled for another machine" in found.text


def test_the_doctor_itself_needs_none_of_what_it_looks_at(package: Package) -> None:
    for name in ("numpy", "cv2", "onnxruntime", "safetensors", "PIL"):
        package(name, _CRASH)
    found = {f.subject: f for f in diagnose()}
    for subject in ("numpy", "opencv-python-headless", "Pillow", "safetensors"):
        assert found[subject].status == "problem", found[subject]
        assert "pip install --force-reinstall" in found[subject].fix
    assert found["python"].status == "ok"


def test_each_subject_occurs_once() -> None:
    subjects = [f.subject for f in diagnose()]
    assert len(set(subjects)) == len(subjects)


@pytest.mark.parametrize("builder", ["raise RuntimeError('no device')", "return None"])
def test_a_tensorrt_without_a_gpu_is_absent_and_not_broken(package: Package, builder: str) -> None:
    package("tensorrt", f"{_RTX.replace('1.7.0', '10.13.2')}def Builder(logger):\n    {builder}\n")
    (found,) = of_tensorrt()
    assert found.status == "absent"
    assert "10.13.2 (major 10)" in found.text


def test_a_tensorrt_of_an_unknown_major_version_is_a_warning(package: Package) -> None:
    package("tensorrt", "__version__ = '8.6.1'\n")
    (found,) = of_tensorrt()
    assert found.status == "warning"
    assert "8.6.1" in found.text

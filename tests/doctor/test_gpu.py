"""NVIDIA's driver, by a library that answers as it does, and JetPack's files."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.gpu import jetpack
from ntre_deploy.doctor.probe import Probe, run_probes

# the calls of the CUDA driver API that the doctor makes, with NVIDIA's signatures
_DRIVER = """
#include <stddef.h>
#include <string.h>
#include <stdlib.h>
int cuInit(unsigned flags) { %s }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin (nvgpu)", size); return 0; }
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = 8000000000u; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 7; return 0; }
int cuGetErrorString(int code, const char **text) { *text = code == 100 ? "no device" : "mismatch"; return 0; }
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Finding]]:
    """Findings with a driver whose `cuInit` has that body."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for a stand-in of the driver")

    def find(init: str) -> list[Finding]:
        (tmp_path / "driver.c").write_text(_DRIVER % init)
        command = [compiler, "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"]
        subprocess.run(command, check=True, cwd=tmp_path)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        return run_probes([Probe("gpu")])["gpu"]

    return find


def test_every_device_is_named_with_what_it_can_run(driver: Callable[[str], list[Finding]]) -> None:
    found = driver("return 0;")
    assert [(f.subject, f.status) for f in found] == [("gpu", "ok"), ("gpu 1", "ok")]
    for words in ("Orin (nvgpu), sm_87, 8.0 GB", "CUDA up to 12.4"):
        assert words in found[0].text


def test_a_driver_that_does_not_fit_its_kernel_module_is_a_problem(driver: Callable[[str], list[Finding]]) -> None:
    (found,) = driver("return 803;")
    assert found.status == "problem"
    assert "mismatch (803)" in found.text
    assert "nvidia-smi" in found.fix


def test_a_driver_without_a_device_names_it(driver: Callable[[str], list[Finding]]) -> None:
    (found,) = driver("return 100;")
    assert "no device (100)" in found.text


def test_a_driver_that_crashes_is_a_problem(driver: Callable[[str], list[Finding]]) -> None:
    (found,) = driver("abort(); return 0;")
    assert (found.subject, found.status) == ("gpu", "problem")
    assert "SIGABRT" in found.text


@pytest.mark.parametrize(
    ("release", "status", "words"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081",
            "ok",
            "JetPack 6 on Orin, L4T 36.4.3",
        ),
        (
            "# R35 (release), REVISION: 3.1, BOARD: t186ref",
            "ok",
            "JetPack 5 on Orin, L4T 35.3.1",
        ),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "warning", "unknown JetPack on Orin, L4T 99.1.0"),
        ("words", "warning", "does not tell the release"),
    ],
)
def test_a_jetson_tells_its_jetpack(tmp_path: Path, release: str, status: str, words: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(release + "\n")
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_bytes(b"Orin\0")
    (found,) = jetpack(tmp_path)
    assert found.status == status
    assert words in found.text


def test_elsewhere_there_is_no_jetpack(tmp_path: Path) -> None:
    assert list(jetpack(tmp_path)) == []

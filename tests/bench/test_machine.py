"""What is told of the machine, and of what else happened on it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntre_deploy.bench.machine import Watch, device_bytes, environment, hardware


def test_the_hardware_is_told_as_json_values() -> None:
    found = hardware()
    assert found["memory_bytes"] > 1e8
    assert isinstance(found["cpu_features"], list)
    assert set(found) == {
        "architecture",
        "cpu_features",
        "cpu_mhz",
        "governor",
        "memory_bytes",
        "thread_variables",
        "gpus",
        "tf32",
    }
    assert not set(found) & set(environment(1))


def test_thread_variables_are_told_because_they_bound_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    told = hardware()["thread_variables"]
    assert told["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in told


def test_a_process_that_keeps_a_core_busy_is_seen() -> None:
    # on a busy machine it shares its core with others, which are seen just the same
    busy = subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        watch = Watch().start()
        time.sleep(0.8)
        told = watch.stop()
    finally:
        busy.kill()
        busy.communicate()
    assert told["seconds"] >= 0.8
    assert told["other_cores"] > 0.3
    assert set(told) == {
        "seconds",
        "other_cores",
        "stolen_cores",
        "thermal_events",
        "quota_microseconds",
        "gpu_slowdowns",
    }


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `nvidia-smi` that knows two GPUs, of which the second is too hot."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "  *memory.used*) printf '1000\\n24\\n' ;;\n"
        "  *slowdown*) printf 'Not Active, Not Active, Not Active\\nNot Active, Active, Not Active\\n' ;;\n"
        "  *) printf 'NVIDIA A, 550.1, 1980 MHz, 2619 MHz\\nNVIDIA B, 550.1, 345 MHz, 2619 MHz\\n' ;;\n"
        "esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("smi")
def test_what_the_driver_tells_of_gpus() -> None:
    assert device_bytes() == 1024 << 20
    assert [line.partition(",")[0] for line in hardware()["gpus"]] == ["NVIDIA A", "NVIDIA B"]
    assert Watch().start().stop()["gpu_slowdowns"] == ["sw_thermal_slowdown"]


def test_without_a_driver_there_is_nothing_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_bytes() is None
    assert hardware()["gpus"] == []

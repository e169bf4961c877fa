"""Disk, memory and processor of this machine."""

from pathlib import Path

from ntre_deploy.doctor.machine import machine


def test_a_folder_that_cannot_be_written_is_a_problem() -> None:
    found = {f.subject: f for f in machine(Path("/proc"))}
    assert found["disk"].status == "problem"
    assert "/proc cannot be written" in found["disk"].text
    assert found["disk"].fix


def test_this_machine_is_described(tmp_path: Path) -> None:
    found = {f.subject: f for f in machine(tmp_path)}
    assert {"python", "cpu", "disk", "temporary files"} <= set(found)
    assert found["python"].status == "ok"
    assert str(tmp_path) in found["disk"].text
    assert list(tmp_path.iterdir()) == []

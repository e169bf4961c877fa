"""The C++ runtime runs Python's conformance kit; a kit that was changed, and a bundle of another, are told."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.conformance.writing import write_kit
from ntre_deploy.runtime.engines import openvino

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or ""),
]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kit(cpp_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(cpp_bundle, out)
    return out


def _program(installed: Any) -> str:
    return str(installed.prefix / "bin" / "ntre-conformance")


@pytest.mark.slow
def test_every_case_passes(installed: Any, run: Run, kit: Path, cpp_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run([_program(installed), str(kit), str(cpp_bundle), "--threads", "1", "--out", str(report)])
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(report.read_text())
    failed = {case["name"] for case in found["cases"] if not case["passed"]}
    assert failed == set(), done.stdout
    assert done.returncode == 0
    assert found["runtime"]["name"] == "cpp"
    cases = json.loads((kit / "kit.json").read_text())["cases"]
    assert [case["name"] for case in found["cases"]] == [case["name"] for case in cases]
    # nothing is left out
    assert not any(case["skipped"] for case in found["cases"])


def _changed(kit: Path, out: Path, change: Callable[[dict[str, Any]], object], keep: str) -> Path:
    """A copy of a kit with the cases of one kind alone, changed."""
    shutil.copytree(kit, out)
    content = json.loads((out / "kit.json").read_text())
    content["cases"] = [case for case in content["cases"] if case["kind"] == keep and "error" not in case][:2]
    change(content)
    (out / "kit.json").write_text(json.dumps(content))
    return out


def test_a_runtime_that_differs_is_found(installed: Any, run: Run, kit: Path, cpp_bundle: Path, tmp_path: Path) -> None:
    wrong = {
        "letterbox": lambda c: c["cases"][0]["box"].reverse() or c["cases"][0]["box"].__setitem__(0, 7),
        "memory": lambda c: c["cases"][0]["fields"].update(name="another"),
        "segment": lambda c: c["cases"][0].update(labels=c["cases"][1]["labels"], stride=c["cases"][1]["stride"]),
        "stack": lambda c: c["cases"][0].update(expected=c["cases"][1]["expected"]),
    }
    for kind, change in wrong.items():
        changed = _changed(kit, tmp_path / kind, change, kind)
        done = run([_program(installed), str(changed), str(cpp_bundle), "--threads", "1"])
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.startswith("failed: ")


def test_what_cannot_be_run_is_told(installed: Any, run: Run, kit: Path, cpp_bundle: Path, tmp_path: Path) -> None:
    program = _program(installed)
    damaged = _changed(kit, tmp_path / "damaged", lambda c: None, "letterbox")
    for path in (damaged / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    version = _changed(kit, tmp_path / "version", lambda c: c.update(version=2), "letterbox")
    other = _changed(kit, tmp_path / "other", lambda c: c["bundle"].update(manifest_sha256="0" * 64), "letterbox")
    for words, code, text in (
        ([], 2, "A kit and a bundle are expected"),
        ([str(tmp_path), str(cpp_bundle)], 2, "is no kit"),
        ([str(kit), str(tmp_path)], 2, "is no bundle"),
        ([str(damaged), str(cpp_bundle)], 2, "has been changed"),
        ([str(version), str(cpp_bundle)], 2, "reads 1"),
        ([str(other), str(cpp_bundle)], 2, "was made of another bundle"),
        ([str(kit), str(cpp_bundle), "--engine", "none"], 2, "Engine 'none' is unknown"),
    ):
        done = run([program, *words])
        assert done.returncode == code, done.stderr
        assert text in done.stderr
        assert done.stderr.count("\n") == 1

"""Modules of the package in processes of their own, with and without Python's own way."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntre_deploy import processes


@pytest.mark.parametrize("version", [(3, 10), (3, 12)])
def test_the_folder_in_which_it_starts_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.setattr(processes, "sys", SimpleNamespace(version_info=version, executable=sys.executable))
    command = processes.module_command("json.tool", "--compact", "-")
    assert ("-P" in command) == (version > (3, 10))
    assert command[0] == sys.executable
    done = subprocess.run(command, cwd=tmp_path, input='{"a": 1}', capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ('{"a":1}', "")

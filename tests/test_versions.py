"""Versions for manifests and reports."""

import importlib.metadata
from pathlib import Path

import pytest

from ntre_deploy.versions import versions


def test_python_and_what_is_installed_are_told() -> None:
    told = versions()
    assert told["numpy"] == importlib.metadata.version("numpy")
    assert all(isinstance(version, str) for version in told.values())


def test_a_package_that_is_half_removed_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycuda-1.0.dist-info").mkdir()
    (tmp_path / "pycuda-1.0.dist-info" / "METADATA").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "pycuda" not in versions()

"""The runtime on Python 3.10, which JetPack 6 has: in an environment of its own, run as a user runs it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("ntre_deploy", "export", "kernels")
EMBED = """
import sys
import numpy as np
from ntre_deploy import Segmenter, SupportMemory
assert "torch" not in sys.modules
bundle, out = sys.argv[1:]
segmenter = Segmenter.load(bundle)
photo = np.zeros((90, 120, 3), np.uint8)
photo[20:60, 30:90] = (200, 120, 40)
marked = (photo[..., 0] > 0).astype(np.uint8)
memory = segmenter.encode_support([(photo, marked)])
memory.save(out)
labels = segmenter.segment(photo, [SupportMemory.load(out), memory])
assert labels.shape == (90, 120)
print(sys.version_info[:2], segmenter.reason)
"""


def interpreter() -> str | None:
    """A Python 3.10 that runs: on PATH, or one of pyenv's."""
    found = [shutil.which("python3.10"), *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))]
    for path in found:
        command = [str(path), "-c", "import venv, sys; assert sys.version_info[:2] == (3, 10)"]
        if path and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return path
    return None


# what the standard library has from 3.11 on and sources like to import
LATER = {
    "datetime": {"UTC"},
    "typing": {"Self", "Never", "LiteralString", "Required", "NotRequired", "Unpack", "assert_never", "override"},
    "enum": {"StrEnum", "ReprEnum", "verify", "member", "nonmember"},
    "contextlib": {"chdir"},
    "asyncio": {"TaskGroup", "Runner", "timeout"},
    "hashlib": {"file_digest"},
    "operator": {"call"},
    "tomllib": {"*"},
}


def later(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in LATER:
            names = {alias.name for alias in node.names}
            found += [f"{node.module}.{n}" for n in names if "*" in LATER[node.module] or n in LATER[node.module]]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [f"{node.value.id}.{node.attr}"] if node.attr in LATER.get(node.value.id, ()) else []
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if "*" in LATER.get(alias.name, ())]
    return found


@pytest.mark.parametrize("folder", SOURCES)
def test_every_source_is_python_3_10(folder: str) -> None:
    for path in (REPOSITORY / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(), str(path), feature_version=(3, 10))
        # the one place that asks for the version first
        assert later(tree) == (["tomllib"] if path.parts[-2:] == ("training", "config.py") else []), path


def test_the_look_for_later_names_finds_them() -> None:
    code = "from datetime import UTC\nimport enum, tomllib\nclass A(enum.StrEnum): pass\n"
    assert sorted(later(ast.parse(code))) == ["datetime.UTC", "enum.StrEnum", "tomllib"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's programs, with the package and its extra `cpu`."""
    python = interpreter()
    if python is None:
        pytest.skip("no Python 3.10 is installed")
    folder = tmp_path_factory.mktemp("python310")
    # a copy: the build must not leave anything beside the sources
    for name in (*SOURCES, "runtimes/web/src"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source" / name)
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    programs = folder / "venv" / "bin"
    # the pip of these tests, into that environment; what is imported compiles itself, and all the rest takes longer
    install = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
    install += ["--disable-pip-version-check", "--no-compile", f"{folder / 'source'}[cpu]"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return programs


def run(*command: str | Path, cwd: Path) -> str:
    # nothing of this process's environment
    env: dict[str, Any] = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the paths are of other systems")
def test_the_runtime_runs_on_python_3_10(environment: Path, exported: Path, tmp_path: Path) -> None:
    photos = REPOSITORY / "ntre_deploy" / "assets" / "photos"
    image, support, mask = (photos / name for name in ("street.jpg", "bus.jpg", "bus_mask.png"))
    told = run(environment / "python", "-c", EMBED, exported, tmp_path / "a.safetensors", cwd=tmp_path)
    assert told.startswith("(3, 10) onnx-cpu ")
    run(environment / "ntre", "segment", exported, image, "-s", f"bus={support},{mask}", "--out", "masks", cwd=tmp_path)
    assert list((tmp_path / "masks").rglob("street*.png"))
    report = json.loads(run(environment / "ntre", "doctor", "--json", cwd=tmp_path))
    findings = {finding["subject"]: finding for finding in report["findings"]}
    assert findings["python"]["status"] == "ok"
    assert any(str(value).startswith("3.10") for value in findings["python"].values())

"""The runtime alone, as `runtimes/python` packs it, in an environment of its own, run as a device runs it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ALLOWED = {"errors", "files", "kernels", "runtime"}
EMBED = """
import sys
from importlib.util import find_spec
import numpy as np
from ntre_deploy import Segmenter, SupportMemory
from ntre_deploy.runtime.imagefile import read_image, read_mask, write_png
bundle, image, support, mask, out = sys.argv[1:]
assert [name for name in ("torch", "onnx", "typer", "rich", "ntre_deploy.training") if find_spec(name)] == []
segmenter = Segmenter.load(bundle)
memory = segmenter.encode_support([(read_image(support), read_mask(mask))], "bus")
memory.save(out + "/bus.safetensors")
labels = segmenter.segment(read_image(image), SupportMemory.load(out + "/bus.safetensors"))
write_png(out + "/labels.png", labels * 255)
print(segmenter.reason)
"""


def imported(path: Path) -> set[str]:
    """The sub-packages and modules of `ntre_deploy` that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("ntre_deploy.")}
    return found


@pytest.mark.parametrize("folder", ["ntre_deploy/runtime", "kernels"])
def test_what_a_device_needs_lies_in_the_runtime(folder: str) -> None:
    for path in (REPOSITORY / folder).rglob("*.py"):
        assert imported(path) <= ALLOWED, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    # a copy: the build must not leave anything beside the sources
    for name in ("ntre_deploy", "kernels", "runtimes/python"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(folder / "runtimes" / "python")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_it_loads_encodes_and_segments_beside_an_engine_and_nothing_else(
    wheel: Path, exported: Path, tmp_path: Path
) -> None:
    assert wheel.stat().st_size < 400_000
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*command: str | Path) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    # the pip of these tests, into that environment; what is imported compiles itself, and all the rest takes longer
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    run(*pip, "--disable-pip-version-check", "--no-compile", f"{wheel}[cpu]")
    photos = REPOSITORY / "ntre_deploy" / "assets" / "photos"
    files = [photos / name for name in ("street.jpg", "bus.jpg", "bus_mask.png")]
    assert run(programs / "python", "-c", EMBED, exported, *files, tmp_path).startswith("onnx-cpu ")
    assert (tmp_path / "labels.png").is_file()

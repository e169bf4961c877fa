"""The page about C++ is built and run as a reader would, with the runtime in `$HOME/ntre`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from markdown_it import MarkdownIt

from ntre_deploy.runtime.engines import openvino

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or ""),
]
Run = Callable[..., subprocess.CompletedProcess[str]]

PAGE = Path(__file__).parents[2] / "docs" / "embed-cpp.md"


class _Block(NamedTuple):
    language: str
    text: str
    note: str


def _blocks() -> list[_Block]:
    found, note = [], ""
    for token in MarkdownIt().parse(PAGE.read_text()):
        if token.type == "fence":
            found.append(_Block(token.info.strip(), token.content, note))
        note = token.content if token.type == "html_block" else ""
    return found


@pytest.fixture
def reader(installed: Any, cpp_bundle: Path, scene: Callable[[int], Any], tmp_path: Path) -> Path:
    """A folder with the bundle, pictures and a memory; the runtime is in `home/ntre` of it."""
    from ntre_deploy.runtime.segmenter import Segmenter

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ntre").symlink_to(installed.prefix)
    shutil.copytree(cpp_bundle, tmp_path / "ntrenet.ntre")
    image, mask, _ = scene(0)
    photo = np.resize(scene(24)[0], (480, 640, 3))
    (tmp_path / "photo.rgb").write_bytes(photo.tobytes())
    for name, pixels in {"fork.ppm": image, "fork_mask.pgm": mask, "photo.ppm": photo}.items():
        header = f"P{6 if pixels.ndim == 3 else 5}\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
        (tmp_path / name).write_bytes(header.encode() + pixels.tobytes())
    segmenter = Segmenter.load(cpp_bundle, "openvino", threads=1)
    segmenter.encode_support([(image, mask)], "fork").save(tmp_path / "memories" / "fork.safetensors")
    return tmp_path


def test_the_page_is_built_and_run_as_a_reader_would(reader: Path, run: Run) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"HOME": str(reader / "home"), "PATH": path}
    printed = []
    for block in _blocks():
        if named := re.search(r"as (app/\S+) -->", block.note):
            (reader / named[1]).parent.mkdir(exist_ok=True)
            (reader / named[1]).write_text(block.text)
        elif "builds and runs this page" in block.note:
            done = run(["bash", "-euo", "pipefail", "-c", block.text], cwd=reader, env=env)
            assert done.returncode == 0, block.text + done.stdout + done.stderr
            printed.append(done.stdout)
    assert re.search(r"^openvino fp32: fork [01]\.\d\d, [01] in the middle$", printed[0], re.MULTILINE)
    assert printed[1].startswith("openvino fp32, ")
    assert printed[2].splitlines()[-1].startswith("labels/photo.labels.pgm: fork ")
    assert (reader / "labels" / "photo.labels.pgm").is_file()


def test_the_project_of_the_page_has_at_most_twenty_lines() -> None:
    (cmake,) = [block for block in _blocks() if block.language == "cmake"]
    assert len(cmake.text.splitlines()) <= 20


def test_the_excerpt_compiles(installed: Any, run: Run, tmp_path: Path) -> None:
    (excerpt,) = [block for block in _blocks() if "compiles it" in block.note]
    (tmp_path / "excerpt.cpp").write_text(f"#include <ntre/ntre.hpp>\n{excerpt.text}")
    compiler = shutil.which("c++")
    assert compiler is not None
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = run([compiler, *flags, f"-I{installed.prefix / 'include'}", str(tmp_path / "excerpt.cpp")])
    assert done.returncode == 0, done.stderr

"""The PTX that the package carries: up to date, complete, and accepted by ptxas for every architecture."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.kernels import build
from ntre_deploy.kernels.sources import BASES, PTX, SOURCES, ptx_name

FILES = [(source, base) for source, bases in BASES.items() for base in bases]

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def test_every_source_has_its_ptx_and_nothing_else_is_carried() -> None:
    assert {path.stem for path in SOURCES.glob("*.cu")} == set(BASES)
    assert {path.name for path in PTX.iterdir()} == {ptx_name(source, base) for source, base in FILES}


@pytest.mark.parametrize(("source", "base"), FILES)
def test_the_ptx_was_made_from_these_sources(source: str, base: int) -> None:
    text = (PTX / ptx_name(source, base)).read_text()
    assert build.sources_digest() in text.splitlines()[0], "run `python -m ntre_deploy.kernels.build`"
    assert f".target sm_{base}" in text
    assert re.search(r"^\.version 7\.0$", text, re.MULTILINE)


@needs_nvcc
@pytest.mark.parametrize(("source", "base"), FILES)
def test_nvcc_makes_this_ptx_and_ptxas_takes_it_without_spills(source: str, base: int) -> None:
    nvcc, ptxas = build.tool("nvcc"), build.tool("ptxas")
    if "release 13.0," in subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout:
        assert build.compile_ptx(nvcc, source, base) == (PTX / ptx_name(source, base)).read_text()
    capabilities = [c for c in build.architectures(nvcc) if c >= base]
    assert len(capabilities) > 5
    for capability in capabilities:
        report = build.check_ptx(ptxas, PTX / ptx_name(source, base), capability)
        assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}


@needs_nvcc
def test_a_source_that_does_not_compile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(SOURCES, tmp_path / "cuda"))
    (copy / "labels.cu").write_text('extern "C" __global__ void broken() { int unused; missing(); }\n')
    monkeypatch.setattr(build, "SOURCES", copy)
    with pytest.raises(EngineError, match="missing"):
        build.compile_ptx(build.tool("nvcc"), "labels", 75)


@needs_nvcc
def test_spills_are_an_error(tmp_path: Path) -> None:
    text = (PTX / ptx_name("prepare", 75)).read_text()
    path = tmp_path / "tight.ptx"
    path.write_text(text.replace(".maxntid", ".maxnreg 32\n.maxntid"))
    assert path.read_text() != text
    with pytest.raises(EngineError, match="spill"):
        build.check_ptx(build.tool("ptxas"), path, 86)


def test_without_nvcc_the_command_says_so_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "ntre_deploy.kernels.build", "--out", str(tmp_path / "ptx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 3
    assert done.stderr.startswith("error: nvcc was not found; install the CUDA toolkit")
    assert list(tmp_path.iterdir()) == []

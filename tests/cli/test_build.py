"""`ntre build`: plans for a bundle that is there, with the real TensorRT for RTX, which needs no GPU."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.tensorrt import api

Done = subprocess.CompletedProcess[str]

needs_rtx = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")
no_gpu = pytest.mark.skipif(cuda.unavailable() is None, reason="there is a GPU here")
RTX = ("--engine", "trt-rtx", "--sm", "8.6", "--precision", "fp32")


@pytest.fixture
def bundle(exported: Path, here: Path) -> Path:
    """A bundle of one's own in fp32, in the folder where the command runs."""
    return Path(shutil.copytree(exported, here / "own.ntre"))


@needs_rtx
@no_gpu
def test_plans_come_to_the_files_that_are_there(bundle: Path, call: Callable[..., Done], here: Path) -> None:
    before = {entry.name: entry.sha256 for entry in Bundle.open(bundle).manifest.files}
    done = call("build", "own.ntre", *RTX, "--engine-cache", "cache")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("fp32 (found by the builder); not run here: ") == 2
    assert "added 2 plans to own.ntre" in done.stdout
    opened = Bundle.open(bundle)
    after = {entry.name: entry.sha256 for entry in opened.manifest.files}
    assert before.items() < after.items()
    assert set(after) - set(before) == {f"{role}.trt-rtx-fp32.sm_86.plan" for role in ("support", "query")}
    for entry in opened.manifest.files:
        opened.read(entry)
    assert [path.name for path in here.iterdir() if "partial" in path.name] == []
    again = call("build", "own.ntre", *RTX, "--engine-cache", "cache", "--json")
    content = json.loads(again.stdout)
    assert [file["details"]["from_cache"] for file in content["plans"]] == [True, True]
    assert content["parity"] is None
    assert len(Bundle.open(bundle).manifest.files) == len(after), "the same plans took the place of the old ones"


@needs_rtx
def test_neither_torch_nor_onnx_is_needed(
    bundle: Path, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    arguments = ("build", "own.ntre", *RTX, "--no-engine-cache")
    done = ntre(*arguments, cwd=here, blocked=without("torch", "onnx"))
    assert (done.returncode, done.stderr) == (0, "")
    assert Bundle.open(bundle).entry("query", "trt-rtx", "fp32") is not None


@needs_rtx
@no_gpu
def test_bf16_plans_are_built_from_bf16_files_for_gpus_that_have_it(
    exported_bf16: Path, call: Callable[..., Done], refused: Callable[..., str], here: Path
) -> None:
    shutil.copytree(exported_bf16, here / "own.ntre")
    options = ("build", "own.ntre", "--engine", "trt-rtx", "--precision", "bf16", "--no-engine-cache")
    message = refused(*options, "--sm", "7.5")
    assert "bf16 needs compute capability 8.0 or later, and 7.5 is older; take --precision fp16 there" in message
    done = call(*options, "--sm", "8.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("bf16 (found by the builder); not run here: ") == 2
    opened = Bundle.open(here / "own.ntre")
    assert opened.precisions("trt-rtx") == ["bf16"]


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("own.ntre", *RTX, "--precision", "int8"), ("holds ONNX files in fp32, and int8 was asked for", "export")),
        (("own.ntre", "--engine", "onnx"), ("Engine 'onnx' is unknown", "trt, trt-rtx")),
        (("own.ntre", *RTX, "--precision", "bf16"), ("holds ONNX files in fp32, and bf16 was asked for", "export")),
        (("own.ntre", *RTX, "--precision", "fp61"), ("Precision 'fp61' is unknown", "fp32, fp16, bf16, int8, fp8")),
        (("none.ntre", *RTX), ("none.ntre does not exist", "ntre export CHECKPOINT")),
        (("own.ntre", *RTX, "--hardware", "ampere-plus"), ("TensorRT for RTX has no hardware-",)),
        (("own.ntre", *RTX, "--engine-cache", "x", "--no-engine-cache"), ("exclude each other",)),
    ],
)
def test_what_cannot_be_built_is_one_line_and_changes_nothing(
    bundle: Path, refused: Callable[..., str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in bundle.iterdir())
    message = refused("build", *arguments)
    assert all(word in message for word in words), message
    assert sorted((path.name, path.stat().st_mtime_ns) for path in bundle.iterdir()) == before


def test_without_the_library_the_command_says_what_to_install(
    tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    if api.unavailable("trt") is None:
        pytest.skip("TensorRT is installed")
    message = refused("build", tiny.bundle, "--precision", "fp32", code=3)
    assert "tensorrt is not installed" in message

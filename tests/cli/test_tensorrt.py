"""`ntre export --engine trt-rtx` on a machine without a GPU, and what TensorRT's options refuse."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntre_deploy.runtime import cuda
from ntre_deploy.runtime.engines.tensorrt import api

Done = subprocess.CompletedProcess[str]

needs_rtx = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")
no_gpu = pytest.mark.skipif(cuda.unavailable() is None, reason="there is a GPU here")


@needs_rtx
@no_gpu
def test_a_bundle_for_gpus_elsewhere(
    tiny: SimpleNamespace, call: Callable[..., Done], exports_from: Callable[[Path], None], here: Path
) -> None:
    exports_from(tiny.bundle)
    arguments = (
        "export",
        tiny.checkpoint,
        "--engine",
        "trt-rtx",
        "--sm",
        "8.6",
        "--sm",
        "8.9",
        "--engine-cache",
        "cache",
    )
    done = call(*arguments, "--out", "a.ntre")
    assert (done.returncode, done.stderr) == (0, "")
    for role in ("support", "query"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{role}.trt-rtx-fp32.sm_86+89.plan: "))
        assert "fp32 (found by the builder); not run here: " in line
    assert "tensorrt fp" not in done.stdout.lower()
    manifest = json.loads((here / "a.ntre" / "manifest.json").read_text())
    plans = [file for file in manifest["files"] if file["engine"] == "trt-rtx"]
    assert [file["role"] for file in plans] == ["support", "query"]
    for file in plans:
        details = file["details"]
        assert (file["precision_asked"], file["precision_found"]) == ("fp32", "fp32")
        assert details["library"] == "tensorrt_rtx"
        assert details["compute_capabilities"] == ["8.6", "8.9"]
        assert details["version"] == manifest["versions"]["tensorrt-rtx"]
        assert (details["tf32"], details["hardware_compatibility"], details["version_compatible"]) == (
            False,
            "none",
            False,
        )
        assert details["from_cache"] is False
    assert {v["engine"] for v in manifest["verification"]} == {"onnx-cpu"}
    again = call(*arguments, "--out", "b.ntre", "--json")
    assert [file["details"]["from_cache"] for file in json.loads(again.stdout)["plans"]] == [True, True]
    done = call("doctor", "--bundle", "a.ntre", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["bundle on trt-rtx fp32"]["status"] == "absent"
    assert findings["bundle on onnx-cpu fp32"]["status"] == "ok"


@needs_rtx
@no_gpu
def test_bf16_plans_come_from_files_that_were_imitated_here(
    exported_bf16: Path,
    tiny_checkpoint: Path,
    call: Callable[..., Done],
    exports_from: Callable[[Path], None],
    here: Path,
) -> None:
    exports_from(exported_bf16)
    options = ("--engine", "trt-rtx", "--sm", "8.6", "--no-engine-cache", "--precision", "bf16")
    done = call("export", tiny_checkpoint, *options, "--out", "a.ntre")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("onnx-cpu-imitating bf16: logits within ")
    for role in ("support", "query"):
        assert f"{role}.trt-rtx-bf16.sm_86.plan: bf16 (found by the builder); not run here: " in done.stdout
    files = json.loads((here / "a.ntre" / "manifest.json").read_text())["files"]
    assert {(f["engine"], f["precision_found"]) for f in files if f["role"] == "query"} == {
        ("onnx", "bf16"),
        ("trt-rtx", "bf16"),
    }


@needs_rtx
@no_gpu
def test_its_plans_cannot_run_here_and_nothing_falls_to_the_cpu(
    tiny: SimpleNamespace,
    call: Callable[..., Done],
    exports_from: Callable[[Path], None],
    here: Path,
    pictures: SimpleNamespace,
    support: str,
) -> None:
    exports_from(tiny.bundle)
    options = ("--engine", "trt-rtx", "--sm", "8.6", "--no-engine-cache", "--max-batch", "1", "--max-classes", "1")
    assert call("export", tiny.checkpoint, *options, "--out", "a.ntre").returncode == 0
    done = call("segment", "a.ntre", pictures.photo, "-s", support, "--engine", "trt-rtx", "--out", "masks")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: Engine trt-rtx cannot run here: ")
    assert not (here / "masks").exists()
    done = call("segment", "a.ntre", pictures.photo, "-s", support, "--out", "masks", "--json")
    assert json.loads(done.stdout)["engine"].startswith("onnx-cpu fp32; passed over trt-rtx: ")


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sm", "9.0"), ("Compute capability of TensorRT for RTX", "'9.0' is unknown", "8.6, 8.9")),
        (("--sm", "sm_86"), ("'sm_86' is unknown",)),
        (("--hardware", "ampere-plus"), ("TensorRT for RTX has no hardware- or version-compatible", "--sm")),
        (("--version-compatible",), ("TensorRT for RTX has no hardware- or version-compatible",)),
        (("--precision", "fp8", "--sm", "8.6"), ("fp8 needs compute capability 8.9 or later, and 8.6 is older",)),
        (("--precision", "bf16", "--sm", "7.5"), ("bf16 needs compute capability 8.0 or later, and 7.5 is older",)),
    ],
)
def test_what_tensorrt_for_rtx_does_not_have_is_refused_before_any_work(
    tiny: SimpleNamespace, refused: Callable[..., str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused("export", tiny.checkpoint, "--engine", "trt-rtx", "--precision", "fp16", *arguments)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--effort", "9"), ("--effort is 9", "from 0 to 5")),
        (("--max-batch", "0"), ("--max-batch is 0",)),
        (("--workspace", "0"), ("--workspace is 0",)),
        (("--hardware", "ampere"), ("Hardware compatibility 'ampere' is unknown", "Did you mean 'ampere-plus'?")),
        (("--engine-cache", "x", "--no-engine-cache"), ("exclude each other",)),
        (("--precision", "fp61"), ("Precision of trt-rtx 'fp61' is unknown", "fp32, fp16, bf16, int8, fp8")),
    ],
)
def test_options_outside_their_range_are_refused(
    tiny: SimpleNamespace, refused: Callable[..., str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused("export", tiny.checkpoint, "--engine", "trt-rtx", *arguments)
    assert all(word in message for word in words), message


def test_without_the_libraries_export_says_what_to_install(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], tmp_path: Path
) -> None:
    blocked = without("tensorrt", "tensorrt_rtx")
    for engine in ("trt", "trt-rtx"):
        done = ntre("export", tiny.checkpoint, "--engine", engine, cwd=tmp_path, blocked=blocked)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1, done.stderr
        assert f"pip install 'ntre_deploy[{engine}]'" in done.stderr
    assert list(tmp_path.iterdir()) == []

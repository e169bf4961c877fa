"""Plans of TensorRT from a build to another machine, over a double of the library: what is refused, and how."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy import Segmenter
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.plans.options import TensorRtOptions
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import open_engine


def damaged(bundle: Path, tmp_path: Path, **details: Any) -> Path:
    """A copy of a bundle whose manifest tells of another build environment."""
    copy = Path(shutil.copytree(bundle, tmp_path / "tiny.ntre"))
    content = json.loads((copy / "manifest.json").read_text())
    for file in content["files"]:
        if file["engine"] == "trt":
            file["details"] |= details
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"version": "10.13.3.9"}, "built by TensorRT 10.13.3.9 and 10.16.1.11 is here"),
        ({"compute_capabilities": ["9.0"]}, "compute capability 9.0 and this GPU has 8.6"),
        ({"os": "windows"}, "built for windows and this is linux"),
        ({"machine": "aarch64"}, "built for aarch64"),
        ({"version": None, "compute_capabilities": "8.6"}, "compute capability ?"),
    ],
)
def test_an_engine_built_elsewhere_is_refused_with_the_command(
    bundle_of: Callable[..., Path], host: Any, tmp_path: Path, details: dict[str, Any], words: str
) -> None:
    path = damaged(bundle_of(), tmp_path, **details)
    with pytest.raises(EngineError, match="cannot run here") as caught:
        Segmenter.load(path, "trt")
    assert words in str(caught.value)
    assert "tiny.ntre --engine trt --precision fp16" in str(caught.value)
    assert "Build it on this machine: ntre build " in str(caught.value)
    assert "deserialise" not in __import__("tensorrt").calls
    assert host.alive() == {}
    assert Segmenter.load(path).reason.startswith("onnx-cpu fp16; passed over trt: support.trt")


def test_a_plan_of_another_gpu_of_the_same_kind_runs_with_a_warning(
    bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    path = bundle_of()
    entry = Bundle.open(path).entry("query", "trt", "fp16")
    assert entry is not None
    assert (entry.details["device"], entry.details["device_memory"]) == ("host memory", 1 << 32)
    other = damaged(path, tmp_path, device="a larger GPU")
    with pytest.warns(UserWarning, match=r"was built on a larger GPU and this is host memory.*ntre build ") as caught:
        engine = open_engine(Bundle.open(other), "trt").engine
    assert len(caught) == 1
    engine.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "details",
    [
        {"compute_capabilities": ["8.0"], "hardware_compatibility": "ampere-plus"},
        {"version": "10.13.3.9", "version_compatible": True},
    ],
)
def test_compatible_engines_run_elsewhere(
    bundle_of: Callable[..., Path], tmp_path: Path, details: dict[str, Any]
) -> None:
    segmenter = Segmenter.load(damaged(bundle_of(), tmp_path, **details), "trt")
    segmenter.engine.close()  # type: ignore[attr-defined]


def test_a_damaged_plan_is_refused_before_a_byte_is_deserialised(
    bundle_of: Callable[..., Path], host: Any, tmp_path: Path
) -> None:
    path = damaged(bundle_of(), tmp_path)
    plan = path / "query.trt-fp16.sm_86.plan"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(InputError, match=r"query.trt-fp16.sm_86.plan has been changed: its SHA-256"):
        Segmenter.load(path, "trt")
    assert "deserialise" not in __import__("tensorrt").calls
    assert host.alive() == {}


def test_none_from_the_library_is_an_error_that_explains(bundle_of: Callable[..., Path], host: Any) -> None:
    path, module = bundle_of(), __import__("tensorrt")
    module.fail["deserialise"] = (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag does not match)"
    )
    with pytest.raises(EngineError, match=r"cannot load the engine: Serialization \(magicTag does not match\)"):
        Segmenter.load(path, "trt")
    assert host.alive() == {}


def test_a_build_that_fails_leaves_no_bundle(
    double: Callable[..., Any], tiny_checkpoint: Path, tmp_path: Path, host: Any, quick: None
) -> None:
    module = double()
    module.fail["build"] = "Error Code 2: OutOfMemory (Requested size was 123 bytes.)"
    options = ExportOptions(("fp16",), engines=("trt",), tensorrt=TensorRtOptions(workspace_mib=64))
    with pytest.raises(EngineError, match=r"cannot build.*OutOfMemory.*--workspace, now 64 MiB"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    assert list(tmp_path.iterdir()) == []
    assert host.alive() == {}


def test_a_timing_cache_is_kept_for_the_next_build(
    double: Callable[..., Any], tiny_checkpoint: Path, tmp_path: Path, quick: None
) -> None:
    double()
    cache = tmp_path / "cache"
    options = ExportOptions(("fp16",), engines=("trt",), tensorrt=TensorRtOptions(cache=cache))
    export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    (timings,) = cache.glob("timings-*")
    assert timings.name == "timings-tensorrt-10.16.1.11-8.6"
    assert timings.read_bytes() == b"timed;timed;"  # support, then query on top of it
    for effort, unfit in enumerate((b"another GPU's", b"torn")):
        timings.write_bytes(unfit)
        limits = TensorRtOptions(cache=cache, effort=effort)  # other plans than those that are kept
        options = ExportOptions(("fp16",), engines=("trt",), replace=True, tensorrt=limits)
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
        assert timings.read_bytes() == b"timed;timed;"


def test_tensorrt_builds_for_the_gpu_here_alone(
    double: Callable[..., Any], tiny_checkpoint: Path, tmp_path: Path, quick: None
) -> None:
    double()
    options = ExportOptions(("fp16",), engines=("trt",), tensorrt=TensorRtOptions(("9.0",)))
    with pytest.raises(InputError, match=r"which has compute capability 8.6, not for 9.0; leave --sm out"):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)

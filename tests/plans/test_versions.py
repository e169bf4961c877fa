"""Every option of a build, on doubles that have exactly the names of each version of the library."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.plans.builder import build
from ntre_deploy.plans.options import TensorRtOptions, profiles, targets
from ntre_deploy.runtime.engines.tensorrt import api

TENSORRT = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
ALL = TensorRtOptions(workspace_mib=64, effort=5, hardware="ampere-plus", version_compatible=True)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    spec = spec_from_file_location("tensorrt_double", Path(__file__).parents[1] / "tensorrt_double.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def install(name: str, version: str) -> Any:
        made = module.Double(name, version)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return install


@pytest.mark.parametrize("version", TENSORRT)
def test_every_option_of_tensorrt_uses_names_that_the_version_has(
    double: Callable[[str, str], Any], exported: Path, version: str
) -> None:
    module = double("tensorrt", version)
    library = api.load("trt")
    assert (library.title, library.ahead_of_time, library.compute_capabilities()) == ("TensorRT", False, ())
    content = (exported / "query.fp16.onnx").read_bytes()
    shapes = profiles("trt", "query", 65, ALL, (16, 512), 81)
    assert len(shapes) == 2  # one image, and many
    built = build(library, content, shapes, ("8.6",), ALL, timing_cache=b"earlier;")
    assert (built.precision, built.found_by, built.timing_cache) == ("fp16", "inspector", b"earlier;timed;")
    for used in (
        ("IBuilderConfig", "hardware_compatibility_level"),
        ("IBuilderConfig", "builder_optimization_level"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("BuilderFlag", "TF32"),
        ("Runtime", "engine_host_code_allowed"),
    ):
        assert used in module.used
    gone = {"FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS"}
    assert not {name for kind, name in module.used if kind == "BuilderFlag"} & gone


def test_a_level_that_a_version_lacks_is_refused(double: Callable[[str, str], Any], exported: Path) -> None:
    double("tensorrt", "10.3.0")
    options = TensorRtOptions(hardware="same-compute-capability")
    content = (exported / "query.fp16.onnx").read_bytes()
    shapes = profiles("trt", "query", 65, options, (16, 512), 81)
    with pytest.raises(InputError, match=r"TensorRT 10\.3\.0 does not know --hardware same-compute-capability"):
        build(api.load("trt"), content, shapes, ("8.6",), options)


def test_every_option_of_tensorrt_for_rtx_uses_names_that_it_has(
    double: Callable[[str, str], Any], exported: Path
) -> None:
    module = double("tensorrt_rtx", "1.7.1.116")
    library = api.load("trt-rtx")
    assert library.compute_capabilities() == ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
    options = TensorRtOptions(workspace_mib=64, effort=0)
    content = (exported / "support.fp16.onnx").read_bytes()
    shapes = profiles("trt-rtx", "support", 65, options, (16, 512), 81)
    assert build(library, content, shapes, ("8.6", "12.0"), options).precision == "fp16"
    assert ("ComputeCapability", "SM120") in module.used


def test_the_record_is_the_library_s_own(double: Callable[[str, str], Any]) -> None:
    if api.unavailable("trt-rtx") is not None:
        pytest.skip(api.unavailable("trt-rtx") or "")
    real = api.load("trt-rtx")
    if real.version != "1.7.1.116":
        pytest.skip(f"TensorRT for RTX {real.version} is installed, 1.7.1.116 is recorded")
    record = double("tensorrt_rtx", "1.7.1.116").record
    for kind, names in record.items():
        found = getattr(real.module, kind)
        assert all(hasattr(found, name) for name in names), kind
    assert list(record["ComputeCapability"]) == list(real.module.ComputeCapability.__members__)


@pytest.mark.parametrize(
    ("version", "words"),
    [("9.3.0", "10.3 to 11"), ("10.2.0.19", "10.3 to 11"), ("12.0.0", "10.3 to 11")],
)
def test_versions_that_are_not_supported_are_refused(
    double: Callable[[str, str], Any], version: str, words: str
) -> None:
    double("tensorrt", "10.16.1.11").__version__ = version
    with pytest.raises(EngineError, match=f"tensorrt {version} is installed, and {words} is supported"):
        api.load("trt")


def test_a_placeholder_package_is_told_from_an_absent_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert api.unavailable("trt") == "tensorrt is not installed (pip install 'ntre_deploy[trt]')"
    monkeypatch.undo()
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    reason = api.unavailable("trt") or ""
    assert "installed but does not work (libnvinfer.so.10: cannot open)" in reason
    assert "--extra-index-url https://pypi.nvidia.com tensorrt" in reason


def test_a_machine_without_a_gpu_cannot_build_for_tensorrt(
    double: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(backend: str | None = None, index: int = 0) -> Any:
        raise EngineError("There is no NVIDIA driver here.")

    double("tensorrt", "11.4.0.106")
    monkeypatch.setattr("ntre_deploy.runtime.cuda.open_device", none)
    with pytest.raises(EngineError, match=r"here is none: There is no NVIDIA driver here\. .*--engine trt-rtx"):
        targets("trt", "fp16", TensorRtOptions())


def test_a_parser_that_fails_and_a_build_that_gives_none(double: Callable[[str, str], Any], exported: Path) -> None:
    module = double("tensorrt", "11.4.0.106")
    content = (exported / "support.fp16.onnx").read_bytes()
    module.fail["build"] = "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (no kernel for Conv_3)"
    with pytest.raises(EngineError, match=r"TensorRT 11.4.0.106 cannot build the engine engine: Internal Error \(no"):
        build(api.load("trt"), content, [], ("8.6",), TensorRtOptions())

"""What an export for OpenVINO writes, and when it is refused."""

from pathlib import Path

import pytest

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.openvino import READS
from ntre_deploy.runtime import cpu
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import openvino
from ntre_deploy.runtime.segmenter import Segmenter

needs_openvino = pytest.mark.skipif(openvino.unavailable() is not None, reason=openvino.unavailable() or "")
needs_bf16 = pytest.mark.skipif(not cpu.native_bf16(), reason="this processor has no bf16 instructions")


def test_the_exporter_and_the_engine_know_the_same_precisions() -> None:
    assert tuple(READS) == openvino.PRECISIONS


@pytest.mark.openvino
@needs_openvino
@needs_bf16
@pytest.mark.slow
def test_openvino_adds_proof_and_no_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ntre"
    export_bundle(tiny_checkpoint, out, ExportOptions(precisions=("fp32", "bf16"), engines=("openvino",)))
    bundle = Bundle.open(out)
    assert {e.name for e in bundle.manifest.files} == {
        "support.onnx",
        "query.onnx",
        "selftest.safetensors",
        "reference.safetensors",
    }
    assert bundle.precisions("openvino") == ["fp32", "bf16"]
    assert bundle.precisions("onnx") == ["fp32"]
    for entry in bundle.manifest.engines:
        assert entry.precision_asked == entry.precision_found == entry.details["support_found"]
        assert (entry.support, entry.query) == ("support.onnx", "query.onnx")
        assert openvino.found_precision(entry.details["kernels"]["query"]) == entry.precision_found
        assert entry.details["version"].startswith(bundle.manifest.versions["openvino"])
    ran = {(v["engine"], v["precision"]) for v in bundle.manifest.verification}
    assert ran == {("onnx-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")}
    assert Segmenter.load(out).reason.startswith("openvino bf16")


@pytest.mark.openvino
@needs_openvino
def test_bf16_is_refused_where_it_cannot_be_verified(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(EngineError, match="no bf16 instructions") as caught:
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", ExportOptions(("bf16",), engines=("openvino",)))
    assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions(("fp61",)), r"\['fp61'\] are not of fp32, fp16, bf16, int8, fp8 \(for onnx\)"),
        (ExportOptions(("fp16",), engines=("openvino",)), r"are not of fp32, bf16, int8 \(for openvino\)"),
        (ExportOptions(("fp16",), engines=("onnx", "openvino")), "openvino has none of the precisions fp16"),
        (ExportOptions(engines=("openvin",)), "Engine 'openvin' is unknown.*Did you mean 'openvino'"),
    ],
)
def test_precisions_and_engines_that_do_not_go_together_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, options: ExportOptions, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export_bundle(tiny_checkpoint, tmp_path / "x.ntre", options)
    assert not list(tmp_path.iterdir())

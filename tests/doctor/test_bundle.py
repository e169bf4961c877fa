"""A bundle against this machine."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.probe import Probe, run_probes

pytest.importorskip("onnxruntime")


def check(bundle: Path) -> dict[str, Finding]:
    return {f.subject: f for f in run_probes([Probe("bundle", (str(bundle),), 120)])["bundle"]}


def test_each_precision_runs_its_self_test(exported: Path) -> None:
    found = check(exported)
    assert found["bundle"].status == "ok"
    assert "squeezenet1_1 at 65 pixels, 6 files" in found["bundle"].text
    for precision in ("fp32", "fp16"):
        assert found[f"bundle on onnx-cpu {precision}"].status == "ok"


def test_files_that_only_plans_are_built_from_are_no_problem(exported_bf16: Path) -> None:
    found = check(exported_bf16)["bundle on onnx-cpu bf16"]
    assert found.status == "absent"
    assert "TensorRT plans are built from" in found.text


def test_a_self_test_that_fails_is_a_problem(bundle: Path) -> None:
    path = bundle / "selftest.safetensors"
    tensors = load_file(path)
    tensors["labels"] = 1 - tensors["labels"]
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = [e for e in manifest["files"] if e["name"] == path.name]
    entry |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = check(bundle)
    assert found["bundle"].status == "ok"
    assert found["bundle on onnx-cpu fp32"].status == "problem"
    assert "fails the bundle's self-test" in found["bundle on onnx-cpu fp32"].text
    assert found["bundle on onnx-cpu fp32"].fix.startswith("ntre export")


def test_a_precision_that_this_machine_runs_best_and_the_bundle_lacks_is_named(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    gone = [e for e in manifest["files"] if e["precision_found"] == "fp32"]
    assert len(gone) == 2
    manifest["files"] = [e for e in manifest["files"] if e not in gone]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for entry in gone:
        (bundle / entry["name"]).unlink()
    found = check(bundle)["bundle for onnx-cpu"]
    assert found.status == "absent"
    assert "could run it in fp32; the bundle holds fp16" in found.text
    assert found.fix == "ntre export CHECKPOINT --force --engine onnx --precision fp32"


def test_a_graph_that_the_engine_cannot_read_does_not_end_the_report(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (entry,) = [e for e in manifest["files"] if (e["role"], e["precision_found"]) == ("query", "fp16")]
    content = (bundle / entry["name"]).read_bytes().replace(b"Conv", b"Cnov")
    (bundle / entry["name"]).write_bytes(content)
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = check(bundle)
    assert found["bundle on onnx-cpu fp16"].status == "warning"
    assert "cannot load the graph" in found["bundle on onnx-cpu fp16"].text
    assert found["bundle on onnx-cpu fp32"].status == "ok"

"""Which checkpoint a bench compares with, and what it knows of the engines that it opens."""

import hashlib
import json
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ntre_deploy.bench
from ntre_deploy.bench.pytorch import CACHED, FULL, FullPyTorch, build_systems
from ntre_deploy.bench.systems import Cached, find_checkpoint, open_engines
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import Bundle

CONTENT = b"the checkpoint"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bundle(bundle_of: Callable[..., Any]) -> Any:
    return bundle_of(DIGEST)


def test_the_checkpoint_beside_the_bundle_is_found_by_its_content(bundle: Any) -> None:
    beside = bundle.folder.parent
    (beside / "a.safetensors").write_bytes(b"another one")
    (beside / "whatever.safetensors").write_bytes(CONTENT)
    (beside / "a.pth").write_bytes(CONTENT)
    assert find_checkpoint(bundle, None) == beside / "whatever.safetensors"


def test_a_checkpoint_that_is_not_beside_the_bundle_is_asked_for(bundle: Any) -> None:
    (bundle.folder / "inside.safetensors").write_bytes(CONTENT)
    (bundle.folder.parent / "other.safetensors").write_bytes(b"another one")
    with pytest.raises(InputError, match="--checkpoint FILE"):
        find_checkpoint(bundle, None)


def test_a_relative_bundle_is_looked_beside_too(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ntre_deploy.runtime.bundle import Bundle

    (bundle.folder.parent / "x.safetensors").write_bytes(CONTENT)
    monkeypatch.chdir(bundle.folder)
    found = find_checkpoint(Bundle(Path("."), bundle.manifest), None)
    assert found.read_bytes() == CONTENT


def test_the_checkpoint_given_must_be_the_bundles(bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "right.safetensors").write_bytes(CONTENT)
    (tmp_path / "wrong.safetensors").write_bytes(CONTENT + b".")
    assert find_checkpoint(bundle, tmp_path / "right.safetensors") == tmp_path / "right.safetensors"
    with pytest.raises(InputError, match=r"wrong\.safetensors"):
        find_checkpoint(bundle, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"missing\.safetensors"):
        find_checkpoint(bundle, tmp_path / "missing.safetensors")


def test_the_one_given_wins_over_the_one_beside(bundle: Any, tmp_path: Path) -> None:
    (bundle.folder.parent / "beside.safetensors").write_bytes(CONTENT)
    (tmp_path / "given.safetensors").write_bytes(CONTENT)
    assert find_checkpoint(bundle, tmp_path / "given.safetensors").name == "given.safetensors"


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_beside_the_bundle_is_passed_over(kind: str, bundle: Any) -> None:
    odd = bundle.folder.parent / "a.safetensors"
    if kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to("nowhere")
    (bundle.folder.parent / "b.safetensors").write_bytes(CONTENT)
    assert find_checkpoint(bundle, None).name == "b.safetensors"


@pytest.fixture
def bundle_with_openvino(exported: Path, tmp_path: Path) -> Path:
    """The tiny bundle, whose graphs OpenVINO reads as they are."""
    copy = Path(shutil.copytree(exported, tmp_path / "tiny.ntre"))
    manifest = json.loads((copy / "manifest.json").read_text())
    entry = {"engine": "openvino", "precision_asked": "fp32", "precision_found": "fp32", "details": {}}
    manifest["engines"] = [entry | {"support": "support.onnx", "query": "query.onnx"}]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_openvino_is_compiled_anew_for_several_at_once_and_its_precision_is_read_from_what_it_runs(
    bundle_with_openvino: Path,
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (extra [openvino])")
    systems, _ = open_engines(Bundle.open(bundle_with_openvino), 1, [("openvino", "fp32")])
    (system,) = systems
    assert isinstance(system, Cached)
    assert system.facts.evidence.startswith("convolutions of the compiled query graph: ")
    assert "f32" in system.facts.evidence
    assert set(system.facts.files) == {"support.onnx", "query.onnx"}
    many = system.many()
    assert many.engine is not system.segmenter.engine
    assert many.engine.name == "openvino"


def test_pytorch_tells_the_type_of_its_parameters(exported: Path, tiny_checkpoint: Path) -> None:
    systems, skipped = build_systems(Bundle.open(exported), tiny_checkpoint, 1, [("onnx-cpu", "fp32")])
    assert [system.name for system in systems] == [FULL, CACHED, "onnx-cpu"]
    assert skipped == {}
    for system in systems[:2]:
        assert isinstance(system, (FullPyTorch, Cached))
        assert system.facts.evidence == "parameters are torch.float32"


def test_the_bench_loads_without_torch_and_what_it_draws_and_counts_with() -> None:
    names = [m.name for m in pkgutil.walk_packages(ntre_deploy.bench.__path__, "ntre_deploy.bench.")]
    assert {"ntre_deploy.bench.session", "ntre_deploy.bench.report.page"} <= set(names)
    code = f"""
import importlib, sys
for name in ("torch", "onnx", "onnxruntime", "openvino", "jinja2", "psutil"):
    sys.modules[name] = None
for name in {names!r}:
    importlib.import_module(name)
print("all")
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr

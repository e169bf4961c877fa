"""Damaged and hostile bundles through the command line: exit code 2 before anything in them is used."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

Done = subprocess.CompletedProcess[str]


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def outsource(bundle: Path) -> None:
    """Let the query graph keep its weights in another file, and the manifest agree with it."""
    path = bundle / "query.onnx"
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (bundle / "weights.bin").rename(bundle.parent / "weights.bin")
    data = path.read_bytes()

    def rehash(content: dict[str, Any]) -> None:
        (entry,) = [entry for entry in content["files"] if entry["name"] == path.name]
        entry["size"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    edit(bundle, rehash)


DAMAGES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "a changed byte in a graph": (lambda b: flip(b / "query.onnx"), ("query.onnx", "SHA-256")),
    "a changed byte in the self-test": (lambda b: flip(b / "selftest.safetensors"), ("selftest", "SHA-256")),
    "a missing graph": (lambda b: (b / "support.onnx").unlink(), ("support.onnx",)),
    "a missing manifest": (lambda b: (b / "manifest.json").unlink(), ("manifest.json", "ntre export")),
    "a manifest that is no JSON": (lambda b: (b / "manifest.json").write_text("{"), ("manifest.json", "JSON")),
    "a path that leaves the folder": (
        lambda b: edit(b, lambda c: c["files"][0].update(name="../x")),
        ("../x", "manifest.json"),
    ),
    "an absolute path": (lambda b: edit(b, lambda c: c["files"][0].update(name="/etc/passwd")), ("/etc/passwd",)),
    "an unknown schema": (lambda b: edit(b, lambda c: c.update(schema=99)), ("99", "2")),
    "an unlisted file": (lambda b: (b / "extra.onnx").write_text("x"), ("extra.onnx",)),
    "external data": (outsource, ("query.onnx", "external data")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_by_segment(
    damage: str, bundle: Path, pictures: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    change, words = DAMAGES[damage]
    change(bundle)
    message = refused("segment", bundle, pictures.photo, "-s", support, "--save-memory", "m")
    assert all(word in message for word in words), message


# the bench runs no self-test, so it has no use for that file
@pytest.mark.parametrize("damage", [name for name in DAMAGES if "self-test" not in name])
def test_a_damaged_bundle_is_refused_by_bench(
    damage: str, bundle: Path, tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    change, words = DAMAGES[damage]
    change(bundle)
    message = refused("bench", bundle, "--checkpoint", tiny.checkpoint, "--count", "1", "--threads", "1", "--out", "r")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_a_problem_for_the_doctor(damage: str, bundle: Path, call: Callable[..., Done]) -> None:
    change, words = DAMAGES[damage]
    change(bundle)
    done = call("doctor", "--bundle", bundle, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["can_run"]) == (1, "", False)
    problems = [f for f in told["findings"] if f["subject"].startswith("bundle") and f["status"] == "problem"]
    assert problems
    assert all(word in problems[0]["text"] for word in words), problems[0]


@pytest.mark.parametrize("command", ["segment", "bench"])
def test_what_is_no_bundle_is_refused_with_the_command_that_makes_one(
    command: str,
    tiny: SimpleNamespace,
    here: Path,
    pictures: SimpleNamespace,
    support: str,
    refused: Callable[..., str],
) -> None:
    (here / "folder").mkdir()
    rest = [pictures.photo, "-s", support] if command == "segment" else []
    for name in ("missing.ntre", "folder", tiny.checkpoint):
        assert "`ntre export" in refused(command, name, *rest)


def test_a_bundle_without_a_graph_in_that_precision_is_told(
    bundle: Path, pictures: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    message = refused("segment", bundle, pictures.photo, "-s", support, "--precision", "fp16")
    assert "fp16" in message
    assert "fp32" in message


def test_a_bundle_with_a_garbled_config_is_refused_by_bench(
    bundle: Path, tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    edit(bundle, lambda content: content["model"].update(config={}))
    refused("bench", bundle, "--checkpoint", tiny.checkpoint, "--count", "1", "--threads", "1", "--out", "r")


def test_bench_wants_the_checkpoint_of_the_bundle_or_none(
    bundle: Path, tiny: SimpleNamespace, here: Path, refused: Callable[..., str], call: Callable[..., Any]
) -> None:
    done = call("bench", bundle, "--seconds", "0", "--workers", "0", "--no-memory", "--threads", "1")
    assert done.returncode == 0
    told = (
        "is not beside it (--checkpoint FILE names it): what differs is told against what the export stored of PyTorch"
    )
    assert told in done.stdout
    shutil.copy(tiny.checkpoint, here / "other.safetensors")
    flip(here / "other.safetensors")
    assert "other.safetensors" in refused("bench", bundle, "--checkpoint", "other.safetensors")
    assert "nope.safetensors" in refused("bench", bundle, "--checkpoint", "nope.safetensors")

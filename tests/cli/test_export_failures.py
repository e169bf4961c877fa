"""Exports that fail on the way: the right exit code, no bundle, and the old one as it was."""

import hashlib
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from ntre_deploy.errors import InputError
from ntre_deploy.export import verify
from ntre_deploy.export.bundle import ExportOptions, export_bundle
from ntre_deploy.export.verify import Tolerance
from ntre_deploy.runtime.engines.tensorrt.api import unavailable

Done = subprocess.CompletedProcess[str]
Process = subprocess.Popen[str]


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too, by its hash."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(
    tiny: SimpleNamespace, ntre: Callable[..., Done], tmp_path: Path
) -> None:
    shutil.copytree(tiny.bundle, tmp_path / "old.ntre")
    before = contents(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = ntre("export", tiny.checkpoint, "--out", "old.ntre", "--force", cwd=tmp_path, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Cannot write ")
    assert "old.ntre" in done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old.ntre"]


@pytest.mark.usefixtures("_one_thread")
def test_a_disk_that_fills_up_at_the_self_test_is_an_input_error(
    tiny: SimpleNamespace,
    exports_from: Callable[[Path], None],
    full_disk: Callable[[int], Any],
    here: Path,
) -> None:
    exports_from(tiny.bundle)
    limits = full_disk(10_000)
    entered = []

    def progress(name: str) -> None:
        if name.startswith("writing the self-test"):
            entered.append(limits.__enter__())

    try:
        with pytest.raises(InputError, match="Cannot write"):
            export_bundle(tiny.checkpoint, here / "x.ntre", ExportOptions(), progress)
    finally:
        if entered:
            limits.__exit__(None, None, None)
    assert entered
    assert list(here.iterdir()) == []


def started(process: Process, folder: Path, pattern: str) -> None:
    """Wait until something of that name is in the folder."""
    end = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_kill_in_the_middle_leaves_no_bundle(
    tiny: SimpleNamespace, start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NTRE_GRAPH_CACHE")  # it would be over before it is stopped
    process = start("export", tiny.checkpoint, "--out", "x.ntre", cwd=tmp_path)
    try:
        started(process, tmp_path, ".x.ntre.partial-*/support.onnx")
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.ntre").exists()


def test_an_interrupt_leaves_nothing_and_says_so_in_one_line(
    tiny: SimpleNamespace, start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NTRE_GRAPH_CACHE")  # it would be over before it is stopped
    process = start("export", tiny.checkpoint, "--out", "x.ntre", cwd=tmp_path)
    try:
        started(process, tmp_path, ".x.ntre.partial-*")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.count("\n") == 1
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(unavailable("trt-rtx") is not None, reason=unavailable("trt-rtx") or "")
def test_an_interrupt_while_a_plan_is_built_leaves_nothing(
    tiny: SimpleNamespace, start: Callable[..., Process], tmp_path: Path
) -> None:
    options = ("--engine", "trt-rtx", "--sm", "8.6", "--engine-cache", "cache", "--out", "x.ntre")
    process = start("export", tiny.checkpoint, *options, cwd=tmp_path)
    try:
        # the other plan comes next
        started(process, tmp_path, ".x.ntre.partial-*/support.trt-rtx-*.plan")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert not list((tmp_path / "cache").rglob("*partial*"))


def test_an_export_that_does_not_verify_exits_with_1(
    tiny: SimpleNamespace,
    exports_from: Callable[[Path], None],
    here: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exports_from(tiny.bundle)
    monkeypatch.setitem(verify.TOLERANCES, "fp32", Tolerance(1.0, 1e-12, 1.0))
    message = refused("export", tiny.checkpoint, "--out", "x.ntre", code=1)
    assert "differs from PyTorch" in message
    assert "1e-12" in message


def test_a_graph_with_a_slightly_wrong_weight_does_not_verify(
    tiny: SimpleNamespace, bundle: Path, exports_from: Callable[[Path], None], here: Path, refused: Callable[..., str]
) -> None:
    model = onnx.load(str(bundle / "query.onnx"))
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.05, weight.name))
    onnx.save(model, str(bundle / "query.onnx"))
    exports_from(bundle)
    shutil.copytree(tiny.bundle, here / "x.ntre")
    message = refused("export", tiny.checkpoint, "--out", "x.ntre", "--force", code=1)
    assert "differs from PyTorch" in message


def test_force_replaces_the_old_bundle_and_leaves_nothing_beside_it(
    tiny: SimpleNamespace, exports_from: Callable[[Path], None], here: Path, call: Callable[..., Done]
) -> None:
    exports_from(tiny.bundle)
    shutil.copytree(tiny.bundle, here / "x.ntre")
    (here / "x.ntre" / "query.onnx").write_text("old")
    done = call("export", tiny.checkpoint, "--out", "x.ntre", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert (here / "x.ntre" / "query.onnx").read_bytes() == (tiny.bundle / "query.onnx").read_bytes()
    assert [p.name for p in here.iterdir()] == ["x.ntre"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_force_does_not_replace_what_is_no_bundle(
    kind: str, tiny: SimpleNamespace, exports_from: Callable[[Path], None], here: Path, refused: Callable[..., str]
) -> None:
    exports_from(tiny.bundle)
    if kind == "file":
        (here / "x.ntre").write_text("mine")
    else:
        (here / "x.ntre").mkdir()
        (here / "x.ntre" / "thesis.txt").write_text("mine")
    assert "x.ntre" in refused("export", tiny.checkpoint, "--out", "x.ntre", "--force")

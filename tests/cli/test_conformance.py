"""`ntre conformance` as a user calls it."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ntre_deploy.conformance.kit import KIT, Kit
from ntre_deploy.runtime import support

Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


@pytest.fixture(scope="module")
def written(ntre: Call, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A kit, and what was said when it was written."""
    folder = tmp_path_factory.mktemp("kit")
    return folder / "kit", ntre("conformance", exported, "--out", "kit", cwd=folder)


@pytest.fixture(scope="module")
def kit(written: tuple[Path, Done]) -> Path:
    return written[0]


def test_a_kit_is_written_and_run(written: tuple[Path, Done], ntre: Call, exported: Path, tmp_path: Path) -> None:
    kit, done = written
    assert (done.returncode, done.stderr) == (0, "")
    count = len(json.loads((kit / KIT).read_text())["cases"])
    assert done.stdout.startswith(f"wrote kit: {count} cases (")
    check = ("conformance", exported, "--check", kit, "--engine", "onnx-cpu:fp32", "--threads", "1")
    done = ntre(*check, "--out-json", "result.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"onnx-cpu fp32 conforms: {count} cases" in done.stdout
    assert "letterbox  input" in done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["passed"]
    assert result["kit"]["sha256"] == Kit.open(kit).sha256


def test_a_runtime_that_differs_is_exit_code_1_with_the_cases(
    call: Call, exported: Path, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "_check_digest", lambda path, file, content: None)
    options = ("--check", kit, "--engine", "onnx-cpu", "--threads", "1")
    done = call("conformance", exported, *options, "--out-json", tmp_path / "result.json")
    assert done.returncode == 1
    assert "hostile-memory-wrong-digest: error 1 (0 allowed); an error was expected" in done.stdout
    assert done.stderr.startswith("error: onnx-cpu fp32 fails ")
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["passed"]
    done = call("conformance", exported, *options, "--json")
    assert done.returncode == 1
    # safetensors looks at tensors in an order of its own, so that its words differ
    told = [json.loads(done.stdout), result]
    for one in told:
        one["cases"] = [case | {"message": case["message"] is None} for case in one["cases"]]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Either --out KIT"),
        (("--out", "a", "--check", "b"), "Either --out KIT"),
        (("--out", "a", "--engine", "onnx-cpu"), "are for --check"),
        (("--out", "a", "--out-json", "r.json"), "are for --check"),
        (("--check", "a", "--force"), "are for --out"),
        (("--check", "a", "--seed", "1"), "are for --out"),
        (("--check", "none"), "none is no kit"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: tuple[str, ...], words: str, call: Call, exported: Path
) -> None:
    done = call("conformance", exported, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_engine_that_is_not_there_is_exit_code_3_and_a_bad_bundle_2(
    call: Call, exported: Path, kit: Path, tmp_path: Path
) -> None:
    assert call("conformance", exported, "--check", kit, "--engine", "onnx-cuda").returncode == 3
    done = call("conformance", tmp_path / "none", "--out", tmp_path / "kit")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_an_existing_kit_is_replaced_only_when_asked(call: Call, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    done = call("conformance", exported, "--out", tmp_path / "kit")
    assert done.returncode == 2
    assert "--force" in done.stderr
    done = call("conformance", exported, "--out", tmp_path / "kit", "--force", "--seed", "3", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "kit").rglob("*") if path.is_file())
    assert json.loads((tmp_path / "kit" / KIT).read_text())["seed"] == 3


def test_a_kill_leaves_nothing_under_the_kits_name(script: Path, exported: Path, tmp_path: Path) -> None:
    command = [script, "conformance", exported, "--out", "kit"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 100
    while not list(tmp_path.glob(".kit.partial-*/images/*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []

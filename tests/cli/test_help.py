"""Help, version and usage errors; none of them needs what the real work needs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ntre_deploy.cli.main import app

Done = subprocess.CompletedProcess[str]

COMMANDS = sorted(command.name or "" for command in app.registered_commands)
HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "PIL")


def test_the_commands_of_the_design_are_there() -> None:
    assert set(COMMANDS) >= {"export", "bench", "segment", "doctor", "import-weights", "demo"}


@pytest.fixture(scope="module")
def bare(without: Callable[..., Path]) -> Path:
    return without(*HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_heavy_package(command: str, ntre: Callable[..., Done], bare: Path, tmp_path: Path) -> None:
    done = ntre(command, "--help", cwd=tmp_path, blocked=bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: ntre {command}" in done.stdout
    assert f"Example: ntre {command} " in done.stdout
    assert list(tmp_path.iterdir()) == []


# what these offer is more than a screen holds
@pytest.mark.parametrize("command", ["", *(c for c in COMMANDS if c not in ("bench", "eval", "export", "segment"))])
def test_help_fits_a_screen(command: str, call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")
    lines = call(*command.split(), "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not any(line.rstrip(" │").endswith("…") for line in lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str, script: Path, tmp_path: Path) -> None:
    def complete(line: str) -> str:
        words = line.split(" ")
        told = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)} if shell == "bash" else {}
        env = {"_NTRE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, "PATH": "/usr/bin", **told}
        more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
        done = subprocess.run([script], env=env | more, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout

    assert "segment" in complete("ntre seg")
    assert "train" not in complete("ntre seg")
    assert "--support" in complete("ntre segment --sup")


def test_the_completion_can_be_shown_for_the_users_shell(script: Path, tmp_path: Path) -> None:
    command = [script, "--show-completion", "bash"]
    env = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_NTRE_COMPLETE=complete_bash" in done.stdout


def test_the_heavy_packages_are_really_blocked_in_these_tests(bare: Path, tmp_path: Path) -> None:
    lines = [f"try:\n import {name}\n print('got {name}')\nexcept ImportError:\n pass" for name in HEAVY]
    code = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(code, env={"PYTHONPATH": str(bare)}, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == ""


def test_help_and_the_import_of_the_package_load_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
def heavy(): return [name for name in {(*HEAVY, "numpy")!r} if name in sys.modules]
import ntre_deploy
print(heavy(), file=sys.stderr)
sys.argv = ["ntre", "--help"]
from ntre_deploy.cli.main import run
try:
    run()
except SystemExit as ended:
    print(ended.code, heavy(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    imported, helped = done.stderr.splitlines()
    assert imported == "[]"
    assert helped == "0 []"
    assert all(command in done.stdout for command in COMMANDS)


def test_the_version_is_the_packages(call: Callable[..., Done]) -> None:
    from ntre_deploy import __version__

    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"ntre {__version__}\n")


def test_ntre_alone_shows_the_help(call: Callable[..., Done]) -> None:
    done = call()
    assert "Usage: " in done.stdout
    assert all(command in done.stdout for command in COMMANDS)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("export", "default: (NAME.ntre here)"),
        ("export", "default: (fp32)"),
        ("export", "default: (the checkpoint's)"),
        ("export", "default: (rendered scenes)"),
        ("segment", "default: (the engine's best)"),
        ("segment", "default: (the engine's)"),
        ("bench", "default: (found beside the bundle)"),
    ],
)
def test_help_tells_the_defaults_that_are_worked_out(
    command: str, text: str, call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    # typer takes square brackets in a help text for markup and swallows what is inside
    monkeypatch.setenv("COLUMNS", "200")
    assert text in call(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("exprt",), ("exprt", "'export'", "ntre --help")),
        (("segmnt", "x"), ("segmnt", "'segment'")),
        (("export", "--precison", "fp32"), ("--precison", "'--precision'", "ntre export --help")),
        (("--debgu", "doctor"), ("--debgu", "'--debug'")),
        (("segment", "x", "--output", "y"), ("--output", "'--out'")),
        (("segment", "x", "--gpu", "1"), ("--gpu", "'--device'")),
        (("segment", "x", "--mask", "m.png"), ("--mask", "'--support'")),
        (("export", "x", "--fp16"), ("--fp16", "'--precision'")),
        (("export", "x", "--batch-size", "1"), ("--batch-size", "'--max-batch'")),
        (("pretrain", "x", "--batch-size", "1"), ("--batch-size", "'--batch'")),
        (("train", "x", "--epochs", "3"), ("--epochs", "'--steps'")),
        (("nosuch",), ("nosuch", "ntre --help")),
        (("segment",), ("bundle", "ntre segment --help")),
        (("import-weights", "random:0"), ("out", "ntre import-weights --help")),
        (("import-weights", "a", "b", "c"), ("c", "ntre import-weights --help")),
        (("export", "--out"), ("--out", "--help")),
    ],
)
def test_a_usage_error_is_one_line_with_the_next_step(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str]
) -> None:
    message = refused(*arguments)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (("export", "x", "--opset", "eighteen"), "eighteen"),
        (("bench", "x", "--count", "0"), "0"),
        (("bench", "x", "--rounds", "-3"), "-3"),
        (("segment", "x", "--threads", "none"), "none"),
    ],
)
def test_a_number_that_does_not_fit_is_named(
    arguments: tuple[str, ...], given: str, refused: Callable[..., str]
) -> None:
    assert given in refused(*arguments)


def test_an_option_without_its_value_points_to_the_commands_own_help(refused: Callable[..., str]) -> None:
    assert "ntre export --help" in refused("export", "--out")


def test_the_traceback_comes_only_with_debug(call: Callable[..., Done]) -> None:
    quiet = call("export", "nope.safetensors")
    assert "Traceback" not in quiet.stderr
    loud = call("--debug", "export", "nope.safetensors")
    assert loud.returncode == quiet.returncode == 2
    assert loud.stderr.startswith("Traceback")
    assert loud.stderr.endswith(quiet.stderr)


def test_results_that_cannot_be_printed_are_a_users_error(ntre: Callable[..., Done], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = ntre("doctor", "--json", cwd=tmp_path, stdout=full)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_gone_is_no_failed_gate(ntre: Callable[..., Done], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ntre("doctor", "--json", cwd=tmp_path, stdout=writer)
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0

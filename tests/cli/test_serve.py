"""`ntre serve` on the command line: what is wrong is one line, before anything listens."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

for _needed in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(_needed, reason="the extra `serve` is not installed")

Done = subprocess.CompletedProcess[str]
KEY = "a-key-of-more-than-16-characters"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.ntre",), ("none.ntre",)),
        (("{bundle}", "{bundle}"), ("Two bundles are called 'tiny'", "NAME=")),
        (("a b={bundle}",), ("needs a name", "NAME=")),
        (("={bundle}",), ("needs a name",)),
        (("{bundle}", "--host", "0.0.0.0"), ("0.0.0.0", "NTRE_API_KEY", "openssl rand -hex 32")),
        (("{bundle}", "--host", "::"), ("NTRE_API_KEY",)),
        (("{bundle}", "--api-key", "short"), ("5 characters", "16")),
        (("{bundle}", "--api-key-file", "none"), ("none cannot be read",)),
        (("{bundle}", "--api-key", KEY, "--api-key-file", "none"), ("leave one out",)),
        (("{bundle}", "--port", "70000"), ("70000",)),
        (("{bundle}", "--workers", "0"), ("0",)),
        (("{bundle}", "--timeout", "0"), ("'seconds' is 0",)),
        (("{bundle}", "--timeout", "nan"), ("'seconds' is nan",)),
        (("{bundle}", "--max-pixels", "1000"), ("1,000,000,000",)),
        (("{bundle}", "--host", "no.such.host.invalid", "--api-key", KEY), ("cannot be had",)),
        (("{bundle}", "--engine", "onnx:fp32", "--precision", "fp16"), ("contradict",)),
        (("{bundle}", "--memories", "file"), ("file",)),
    ],
)
def test_what_cannot_be_served_is_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], refused: Callable[..., str], exported: Path, here: Path
) -> None:
    (here / "file").write_text("x")
    message = refused("serve", *(text.format(bundle=exported) for text in arguments))
    assert all(word in message for word in words), message
    assert KEY not in message
    assert "short" not in message


def test_a_port_that_is_taken_is_one_line(refused: Callable[..., str], exported: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        message = refused("serve", exported, "--port", str(other.getsockname()[1]))
    assert "cannot be had" in message
    assert "--port" in message


def test_a_bundle_that_was_changed_ends_it_with_2(ntre: Callable[..., Done], exported: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(exported, tmp_path / "broken.ntre"))
    graph = next(broken.glob("query*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    done = ntre("serve", broken, "--port", "0", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert graph.name in last


def test_an_engine_that_is_not_there_ends_it_with_3(ntre: Callable[..., Done], exported: Path, tmp_path: Path) -> None:
    done = ntre("serve", exported, "--port", "0", "--engine", "trt", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert all(isinstance(json.loads(line), dict) for line in lines[:-1])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_without_the_extra_it_says_what_to_install(
    name: str, ntre: Callable[..., Done], without: Callable[..., Path], exported: Path, tmp_path: Path
) -> None:
    blocked = without(name)
    path = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = ntre("serve", exported, cwd=tmp_path, blocked=Path(path))
    assert done.returncode == 3
    assert done.stderr == f"error: ntre serve needs {name}: pip install 'ntre_deploy[serve]'\n"

"""On a cluster of several nodes: kills in the middle lose nothing and double nothing."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

Done = subprocess.CompletedProcess[str]
Begin = Callable[..., subprocess.Popen[str]]

MANY = 300


@pytest.fixture(scope="module")
def many(photos: Callable[[Path, int], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos(tmp_path_factory.mktemp("many"), MANY)


def test_a_worker_node_is_killed_in_the_middle(
    cluster: Any,
    many: list[Path],
    begin: Begin,
    parts: Callable[[Path], dict[str, int]],
    wait_for: Callable[..., None],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = begin(many[0].parent, "--out", out)
    wait_for(lambda: len(parts(out)) > 3 or process.poll() is not None)
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
    told = len(parts(out))
    assert 3 < told < MANY // 8, "it was over before the node could be killed"
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert f"wrote {MANY} masks to {out}/masks" in stdout
    check(out, many)
    assert not (out / ".partial").exists()
    cluster.nodes.append(cluster.more())


def test_a_killed_command_goes_on_when_it_is_given_again(
    many: list[Path],
    begin: Begin,
    finish: Callable[..., Done],
    parts: Callable[[Path], dict[str, int]],
    wait_for: Callable[..., None],
    check: Callable[..., Any],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    command = (many[0].parent, "--out", out)
    process = begin(*command)
    wait_for(lambda: len(parts(out)) > 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # its workers may write what they have at hand
    there = parts(out)
    assert 3 < len(there) < MANY // 8, "it was over before it could be killed"
    done = finish(*command)
    assert done.returncode == 0, done.stderr
    assert "going on: " in done.stderr
    assert there.items() <= parts(out).items()
    check(out, many)
    again = finish(*command)
    assert again.returncode == 0, again.stderr
    assert f"going on: {MANY} of {MANY} photos are done" in again.stderr
    check(out, many)

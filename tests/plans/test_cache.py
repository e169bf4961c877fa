"""The cache of built plans: one build per key, also between processes, and nothing trusted that has changed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.plans import cache
from ntre_deploy.plans.builder import Built
from ntre_deploy.plans.cache import cached

KEY = {"onnx_sha256": "a" * 64, "library": "tensorrt", "version": "10.16", "compute_capabilities": ["8.6"]}
BUILT = Built(b"plan" * 100, {"conv": {"fp16": 3}}, "fp16", "inspector", b"timings")


class Counting:
    """A build that counts."""

    def __init__(self, built: Built = BUILT) -> None:
        self.built, self.given = built, list[bytes]()

    def __call__(self, timings: bytes) -> Built:
        self.given.append(timings)
        return self.built


def test_the_second_one_comes_from_the_cache(tmp_path: Path) -> None:
    build = Counting()
    first, hit = cached(tmp_path / "c", KEY, build)
    assert (first, hit) == (BUILT, False)
    again, hit = cached(tmp_path / "c", KEY, build)
    assert hit
    assert (again.plan, again.kernels, again.precision, again.found_by) == (
        BUILT.plan,
        BUILT.kernels,
        "fp16",
        "inspector",
    )
    assert build.given == [b""]
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "other", [{"onnx_sha256": "b" * 64}, {"version": "10.17"}, {"compute_capabilities": ["8.9"]}, {"effort": 5}]
)
def test_everything_that_decides_about_a_plan_is_in_its_key(tmp_path: Path, other: dict[str, Any]) -> None:
    build = Counting()
    cached(tmp_path, KEY, build)
    _, hit = cached(tmp_path, KEY | other, build)
    assert not hit
    # timings belong to a library, its version and a GPU
    same = not {"version", "compute_capabilities"} & set(other)
    assert build.given == [b"", b"timings" if same else b""]


@pytest.mark.parametrize("damage", ["plan", "entry", "missing", "fields"])
def test_an_entry_that_was_changed_is_built_anew(tmp_path: Path, damage: str) -> None:
    build = Counting()
    cached(tmp_path, KEY, build)
    (entry,) = tmp_path.glob("*/entry.json")
    if damage == "plan":
        (entry.parent / "engine.plan").write_bytes(b"evil")
    elif damage == "entry":
        entry.write_text("{")
    elif damage == "missing":
        entry.unlink()
    else:
        content = json.loads(entry.read_text())
        content["built"]["unknown"] = 1
        entry.write_text(json.dumps(content))
    built, hit = cached(tmp_path, KEY, build)
    assert not hit
    assert built.plan == BUILT.plan
    assert cached(tmp_path, KEY, build)[1]


def test_a_build_that_fails_leaves_nothing_and_no_lock(tmp_path: Path) -> None:
    def fail(timings: bytes) -> Built:
        raise EngineError("no")

    for _ in range(2):
        with pytest.raises(EngineError, match="no"):
            cached(tmp_path, KEY, fail)
    assert not list(tmp_path.glob("*/*"))
    assert not cached(tmp_path, KEY, Counting())[1]


def test_a_folder_that_cannot_be_made_costs_the_cache_and_not_the_plan(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    build = Counting()
    with pytest.warns(UserWarning, match=r"Engine cache .* cannot be written \(.*\); nothing is kept there"):
        built, was_there = cached(tmp_path / "file" / "c", KEY, build)
    assert (built.plan, was_there) == (build(b"").plan, False)


def test_a_disk_that_is_full_costs_the_cache_and_not_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        _, was_there = cached(tmp_path / "c", KEY, Counting())
    assert not was_there


_PROCESS = """
import sys, time
from pathlib import Path
from ntre_deploy.plans.builder import Built
from ntre_deploy.plans.cache import cached
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
def build(timings):
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(1)
    return Built(b"plan", {}, "fp16", "builder")
print("ready", flush=True)
sys.stdin.readline()
built, hit = cached(folder, {"a": 1}, build, lambda line: print(line))
print(built.plan, hit)
"""


def test_two_processes_that_ask_build_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", _PROCESS, str(tmp_path / "c"), str(tmp_path / "log")]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert sorted(text.splitlines()[-1] for text in said) == ["b'plan' False", "b'plan' True"]

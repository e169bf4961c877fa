"""The C++ runtime under sanitizers, fuzzed, and for another processor; each with `double`, the engine of tests.

A real engine starts threads of libraries that are built without ThreadSanitizer, in which it sees races that are none.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[2] / "runtimes" / "cpp"
_TARGETS = ("manifest", "memory", "onnx")
# of each target; CI takes more
_FUZZ_SECONDS = int(os.environ.get("NTRE_FUZZ_SECONDS", "2"))
_LIMIT = 900

Build = Callable[..., Path]


def _run(command: list[str | Path], seconds: int = _LIMIT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build some targets of a preset of CMakePresets.json; skips where what that needs is missing."""

    def build(preset: str, *targets: str, programs: tuple[str, ...] = ()) -> Path:
        for program in ("cmake", "ninja", *programs):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        folder = tmp_path_factory.mktemp(preset)
        command: list[str | Path] = ["cmake", "-S", SOURCES, "-B", folder, "--preset", preset, "-DNTRE_TOOLS=OFF"]
        done = _run(command)
        if done.returncode and "Could" in done.stderr:
            pytest.skip(f"the preset {preset} lacks a library: {' '.join(done.stderr.split())[:200]}")
        assert done.returncode == 0, done.stderr
        done = _run(["cmake", "--build", folder, "--parallel", "2", "--target", *targets])
        output = done.stdout + done.stderr
        if done.returncode and any(name in output for name in ("cannot find -l", "libclang_rt", "cannot find lib")):
            pytest.skip(f"the compiler's own libraries for the preset {preset} are not installed")
        assert done.returncode == 0, output[-4000:]
        return folder

    return build


@pytest.mark.slow
def test_threads_and_hostile_files_under_address_sanitizer(build: Build, exported: Path, tmp_path: Path) -> None:
    folder = build("asan", "threads", "fuzzers")
    done = _run([folder / "tests" / "threads", exported, tmp_path])
    assert (done.returncode, done.stdout) == (0, "4 threads, 0 wrong\n"), done.stderr
    for target in _TARGETS:
        done = _run([folder / "fuzz" / f"fuzz_{target}", SOURCES / "fuzz" / "corpus" / target])
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[0]) >= 3 - (target == "manifest")


@pytest.mark.slow
def test_threads_under_thread_sanitizer(build: Build, exported: Path, tmp_path: Path) -> None:
    folder = build("tsan", "threads")
    done = _run([folder / "tests" / "threads", exported, tmp_path])
    assert (done.returncode, done.stdout) == (0, "4 threads, 0 wrong\n"), done.stderr


@pytest.mark.slow
def test_fuzzing_finds_nothing(build: Build, tmp_path: Path) -> None:
    folder = build("fuzz", "fuzzers", programs=("clang++",))
    for target in _TARGETS:
        found = tmp_path / target
        found.mkdir()
        command: list[Any] = [folder / "fuzz" / f"fuzz_{target}", f"-max_total_time={_FUZZ_SECONDS}", "-timeout=20"]
        command += ["-rss_limit_mb=2048", "-max_len=8192", f"-dict={SOURCES / 'fuzz' / f'{target}.dict'}"]
        command += [f"-artifact_prefix={tmp_path}/{target}-", found, SOURCES / "fuzz" / "corpus" / target]
        done = _run(command)
        assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_64_bit_arm_runs_everything_but_an_engine(build: Build, exported: Path, tmp_path: Path) -> None:
    folder = build("aarch64", "threads", "fuzzers", programs=("aarch64-linux-gnu-g++", "qemu-aarch64"))
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
    # a single file, which needs no libraries
    done = _run([emulator[0], folder / "tests" / "threads", exported, tmp_path])
    assert (done.returncode, done.stdout) == (0, "4 threads, 0 wrong\n"), done.stderr
    for target in _TARGETS:
        program = folder / "fuzz" / f"fuzz_{target}"
        done = _run([*emulator, program, SOURCES / "fuzz" / "corpus" / target])
        assert done.returncode == 0, done.stderr

"""The C ABI: a C program and ctypes use it, it exports nothing else, and no misuse that it can see ends the process."""

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy import __version__
from ntre_deploy.runtime.calibration import Calibration
from ntre_deploy.runtime.support import SupportMemory

Run = Callable[..., subprocess.CompletedProcess[str]]

HERE = Path(__file__).parent
# of a shared library without an engine, stripped
_MOST_BYTES = 1 << 20


def _memory() -> SupportMemory:
    rng = np.random.default_rng(0)
    keys = tuple(rng.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    return SupportMemory("fork", rng.normal(size=5).astype(np.float32), keys, "0123", Calibration(0.5), (0.25, 0.75))


def _compiled(installed: Any, run: Run, source: Path, out: Path, *flags: str) -> Path:
    compiler = shutil.which("cc" if source.suffix == ".c" else "c++")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", *flags, f"-I{installed.prefix / 'include'}"]
    folder = installed.library.parent
    done = run([*command, str(source), "-o", str(out), f"-L{folder}", "-lntre", f"-Wl,-rpath,{folder}"])
    assert done.returncode == 0, done.stderr
    return out


def test_a_c_program_uses_the_installed_header(installed: Any, run: Run, tmp_path: Path) -> None:
    program = _compiled(installed, run, HERE / "consumer.c", tmp_path / "consumer", "-std=c99")
    memory = _memory()
    memory.save(tmp_path / "in")
    done = run([str(program), "in", "out"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "Support memory nowhere does not exist or is not a file."
    assert lines[1].startswith("Bundle nowhere does not exist or is not a folder; make one with")
    assert lines[2] == "fork 0123 2 5 4 3 0.750"
    again = SupportMemory.load(tmp_path / "out")
    assert (again.name, again.calibration, again.shot_scores) == ("fork", memory.calibration, memory.shot_scores)


@pytest.mark.parametrize("header", ["ntre.h", "version.h"])
@pytest.mark.parametrize("language", ["c", "cpp"])
def test_each_header_stands_alone(installed: Any, run: Run, tmp_path: Path, header: str, language: str) -> None:
    source = tmp_path / f"alone.{language}"
    source.write_text(f"#include <ntre/{header}>\nint main(void) {{ return 0; }}\n")
    standard = "-std=c99" if language == "c" else "-std=c++17"
    _compiled(installed, run, source, tmp_path / "alone", standard)


@pytest.mark.parametrize("header", ["ntre.hpp", "image.hpp", "error.hpp"])
def test_each_header_of_cpp_stands_alone(installed: Any, run: Run, tmp_path: Path, header: str) -> None:
    source = tmp_path / "alone.cpp"
    source.write_text(f"#include <ntre/{header}>\nint main() {{ return 0; }}\n")
    _compiled(installed, run, source, tmp_path / "alone", "-std=c++17")


def test_every_function_of_the_header_is_exported_and_nothing_else(installed: Any, run: Run) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    declared = set(
        re.findall(r"NTRE_API [^(;]*?\b(ntre_\w+)\(", (installed.prefix / "include/ntre/ntre.h").read_text())
    )
    done = run(["nm", "-D", "--defined-only", str(installed.library)])
    exported = {line.split()[2].split("@")[0] for line in done.stdout.splitlines()}
    assert len(declared) > 25
    # the second is the version of the symbols
    assert exported == declared | {"NTRE_1"}


def test_every_function_and_field_of_the_header_is_documented(installed: Any) -> None:
    lines = (installed.prefix / "include/ntre/ntre.h").read_text().splitlines()
    for number, line in enumerate(lines):
        before = lines[number - 1]
        if line.startswith("NTRE_API"):
            assert before.endswith("*/") or before.startswith("NTRE_API"), line
        if re.fullmatch(r"  \S.*;.*", line) and not line.startswith("  return"):
            assert "/*" in line or "*/" in line, line


def test_the_version_is_that_of_the_package(abi: Any, installed: Any) -> None:
    assert abi._function("version")().decode() == __version__
    config = next(installed.prefix.rglob("ntreConfigVersion.cmake")).read_text()
    assert f'PACKAGE_VERSION "{__version__}"' in config


def test_the_library_without_an_engine_is_small(installed: Any, run: Run, tmp_path: Path) -> None:
    if installed.openvino is not None:
        pytest.skip("this build has an engine")
    stripped = tmp_path / "libntre.so"
    assert run(["strip", "-o", str(stripped), str(installed.library)]).returncode == 0
    assert stripped.stat().st_size < _MOST_BYTES


def test_engines_are_told(abi: Any, installed: Any) -> None:
    found = abi._function("engine_name")(ctypes.c_size_t(0))
    assert found == (None if installed.openvino is None else b"openvino")
    assert abi._function("engine_name")(ctypes.c_size_t(99)) is None


def test_null_is_an_error_and_no_crash(abi: Any, tmp_path: Path) -> None:
    library, out = abi.library, ctypes.c_void_p(1)
    calls = [
        (library.ntre_load, (None, None, ctypes.byref(out))),
        (library.ntre_load, (b"x", None, None)),
        (library.ntre_check, (None, None, ctypes.c_size_t(0))),
        (library.ntre_check, (b"x", None, ctypes.c_size_t(1))),
        (library.ntre_segmenter_clone, (None, ctypes.byref(out))),
        (library.ntre_encode, (None, None, ctypes.c_size_t(0), 0, None)),
        (library.ntre_memory_load, (None, None, None, ctypes.byref(out))),
        (library.ntre_memory_load, (b"x", None, None, None)),
        (library.ntre_memory_from_bytes, (None, ctypes.c_size_t(4), None, None, ctypes.byref(out))),
        (library.ntre_memory_save, (None, b"x")),
        (library.ntre_memory_to_bytes, (None, None, None)),
        (library.ntre_memory_uncalibrated, (None, ctypes.byref(out))),
        (library.ntre_segment, (None, None, None, ctypes.c_size_t(0), None, None)),
        (library.ntre_logits, (None, None, None, ctypes.c_size_t(0), None)),
    ]
    for function, arguments in calls:
        out.value = 1
        assert function(*arguments) == 2, function
        assert abi.last_error().endswith(" is NULL.")
        if any(argument is not None and "CArgObject" in type(argument).__name__ for argument in arguments):
            assert out.value is None


def test_options_that_were_not_begun_rightly_are_told(abi: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="begin with NTRE_OPTIONS"):
        abi.call(
            "load", b"x", ctypes.byref(type(abi).__init__.__globals__["Options"]()), ctypes.byref(ctypes.c_void_p())
        )


def test_each_thread_has_an_error_of_its_own(abi: Any) -> None:
    found: dict[int, list[str]] = {}
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        before = abi.last_error()
        out = ctypes.c_void_p()
        assert abi.library.ntre_memory_load(f"none {number}".encode(), None, None, ctypes.byref(out)) == 2
        barrier.wait()
        found[number] = [before, abi.last_error()]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {n: ["", f"Support memory none {n} does not exist or is not a file."] for n in range(4)}
    assert found == wanted


def test_an_error_is_one_line_whatever_a_name_holds(abi: Any) -> None:
    assert abi.library.ntre_memory_load(b"a\nb\xff", None, None, ctypes.byref(ctypes.c_void_p())) == 2
    assert b"\n" not in abi._function("last_error")()

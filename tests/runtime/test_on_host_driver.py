"""Runs the tests of `host_driver/` in a process of their own, whose CUDA driver works on host memory.

Real bindings, streams, copies, graphs, kernels (built for the CPU) and errors, without a GPU; a second process, because
a driver stays loaded.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("host_driver")


@pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is here")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the host driver is written for Linux")
@pytest.mark.parametrize("backend", ["cuda-python", "pycuda"])
def test_cuda_and_tensorrt_on_a_driver_of_host_memory(
    tmp_path: Path, exported: Path, tiny_checkpoint: Path, emulator: Path, backend: str
) -> None:
    if backend == "pycuda" and find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed; it has no wheels, and a CUDA toolkit builds it")
    # a process each: pycuda keeps its context to the end
    by_pycuda = FOLDER / "test_pycuda.py"
    chosen = [str(by_pycuda)] if backend == "pycuda" else [str(FOLDER), f"--ignore={by_pycuda}"]
    library = tmp_path / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{library.name}"]
    subprocess.run(["cc", *flags, "-o", library, FOLDER / "libcuda.c", "-ldl"], check=True)
    paths = os.environ.get("LD_LIBRARY_PATH", "")
    env = os.environ | {
        "LD_LIBRARY_PATH": f"{tmp_path}:{paths}".rstrip(":"),
        "NTRE_HOST_DRIVER": str(library),
        "NTRE_HOST_FILES": f"{exported}:{tiny_checkpoint}",
        "NTRE_HOST_KERNELS": str(emulator),
        "OMP_NUM_THREADS": "1",
    }
    # -P: the root of a clone must not shadow the installed package
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, env=env, cwd=FOLDER.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counts = re.search(r"(\d+) passed", done.stdout)
    assert counts is not None
    assert int(counts[1]) >= (4 if backend == "pycuda" else 60), done.stdout[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1]

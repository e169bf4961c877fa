"""Python, processor, memory, disk and permissions, from the standard library alone."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.runtime.cpu import cpu_flags, cpu_name, int8_unwise, native_bf16, usable_cores

_PYTHON = (3, 10)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16")
_X86 = ("x86_64", "AMD64")
_MIN_FREE = 2e9
# data loaders share batches there; containers have 64 MB of it by default
_SHARED_MEMORY, _MIN_SHARED = Path("/dev/shm"), 256e6


def machine(here: Path | None = None) -> Iterator[Finding]:
    """Findings on the machine; `here` is the folder to work in (default: the current one)."""
    yield _python()
    yield _cpu()
    yield from _memory()
    yield from _disk(here or Path.cwd())


def _python() -> Finding:
    place = "a virtual environment" if sys.prefix != sys.base_prefix else sys.prefix
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, in {place}"
    if sys.version_info < _PYTHON:
        return Finding("machine", "python", "problem", text, "install Python 3.10 or newer")
    return Finding("machine", "python", "ok", text)


def _cpu() -> Finding:
    usable = usable_cores()
    flags = cpu_flags()
    found = ", ".join(name for name in _FEATURES if name in flags) or "features unknown"
    text = f"{cpu_name()}, {usable} of {os.cpu_count()} cores, {found}"
    if flags and platform.machine() in _X86 and "avx2" not in flags:
        return Finding("machine", "cpu", "warning", f"{text}: no AVX2, so every engine is slow")
    runs = [name for name, there in (("bf16", native_bf16()), ("int8", int8_unwise("int8") is None)) if there]
    return Finding("machine", "cpu", "ok", f"{text}; {' and '.join(runs) or 'neither bf16 nor int8'} in hardware")


def _memory() -> Iterator[Finding]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, ValueError, IndexError, KeyError):  # other systems do not tell
        return
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < _MIN_FREE:
        yield Finding("machine", "memory", "warning", text, "close other programs before an export")
    else:
        yield Finding("machine", "memory", "ok", text)


def _disk(here: Path) -> Iterator[Finding]:
    places = {"disk": here, "temporary files": Path(tempfile.gettempdir())}
    mend = {"disk": "cd into a folder of yours", "temporary files": "export TMPDIR=FOLDER"}
    for subject, place in places.items():
        try:
            with tempfile.TemporaryFile(dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            text = f"{place} cannot be written: {error.strerror or error}"
            yield Finding("machine", subject, "problem", text, mend[subject])
            continue
        text = f"{free / 1e9:.1f} GB free in {place}, which can be written"
        low = free < _MIN_FREE
        yield Finding("machine", subject, "warning" if low else "ok", text, mend[subject] if low else "")
    if _SHARED_MEMORY.is_dir() and (size := shutil.disk_usage(_SHARED_MEMORY).total) < _MIN_SHARED:
        text = f"{size / 1e6:.0f} MB in {_SHARED_MEMORY}, too little for the workers of `ntre train`"
        yield Finding("machine", "shared memory", "warning", text, "docker run --shm-size=2g (or data.workers = 0)")

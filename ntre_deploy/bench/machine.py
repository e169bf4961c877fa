"""The machine under the figures: what it is, and what else happened on it while they were taken."""

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ntre_deploy.runtime.cpu import cpu_flags, cpu_name

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_THERMAL = "/sys/devices/system/cpu"
_CGROUP = "/sys/fs/cgroup/cpu.stat"
_SLOWDOWNS = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")


def environment(threads: int | None) -> dict[str, Any]:
    """What the figures depend on besides the bundle; `threads` is None where they were left to the engine."""
    from ntre_deploy.versions import versions

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions(),
    }


def hardware() -> dict[str, Any]:
    """What a bench report adds to `environment`: instruction sets, clocks as found, memory, GPUs, TF32.

    Without psutil, clock and memory are None.
    """
    clock = memory = None
    if has_psutil():
        import psutil

        clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
        memory = psutil.virtual_memory().total
    return {
        "architecture": platform.machine(),
        "cpu_features": [name for name in _FLAGS if name in cpu_flags()],
        "cpu_mhz": round(clock.current) if clock is not None and clock.current else None,
        "governor": _text(f"{_THERMAL}/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": memory,
        "thread_variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "gpus": _smi("name,driver_version,clocks.sm,clocks.mem"),
        "tf32": _tf32(),
    }


def has_psutil() -> bool:
    """Whether there is what asks the system for its clock, its memory and the work of other processes."""
    return find_spec("psutil") is not None


@dataclass
class Watch:
    """What else happened on the machine between `start` and `stop`."""

    _began: float = 0.0
    _busy: float = 0.0
    _stolen: float = 0.0
    _own: float = 0.0
    _thermal: int | None = None
    _quota: int | None = None
    _gpu: set[str] = field(default_factory=set)

    def start(self) -> "Watch":
        """Note where the system's counters stand."""
        self._began = time.monotonic()
        self._busy, self._stolen = _system_seconds()
        self._own = _own_seconds()
        self._thermal, self._quota = _thermal_events(), _quota_microseconds()
        self._gpu = _gpu_slowdowns()
        return self

    def stop(self) -> dict[str, Any] | None:
        """JSON values: seconds that it took, cores that others kept busy, and every sign of throttling.

        `other_cores` is the mean number of logical processors that other processes used, `stolen_cores` what the host
        of a virtual machine kept for itself; a count is None where the system does not tell, all of it without psutil.
        """
        if not has_psutil():
            return None
        seconds = max(time.monotonic() - self._began, 1e-6)
        busy, stolen = _system_seconds()
        stolen_cores = max(0.0, stolen - self._stolen) / seconds
        other = max(0.0, busy - self._busy - (_own_seconds() - self._own)) / seconds
        return {
            "seconds": seconds,
            "other_cores": other,
            "stolen_cores": stolen_cores,
            "thermal_events": _since(self._thermal, _thermal_events()),
            "quota_microseconds": _since(self._quota, _quota_microseconds()),
            "gpu_slowdowns": sorted(self._gpu | _gpu_slowdowns()),
        }


def _since(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _system_seconds() -> tuple[float, float]:
    """Busy and stolen processor seconds of the whole system since it started."""
    if not has_psutil():
        return 0.0, 0.0
    import psutil

    times = psutil.cpu_times()
    # guest time is part of user time
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    stolen = getattr(times, "steal", 0.0)
    return sum(times) - idle - guests - stolen, stolen


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _thermal_events() -> int | None:
    counts = [_text(path) for path in Path(_THERMAL).glob("cpu*/thermal_throttle/*_throttle_count")]
    numbers = [int(c) for c in counts if c is not None and c.isdecimal()]
    return sum(numbers) if numbers else None


def _quota_microseconds() -> int | None:
    """Time for which the container's processor quota held this process back."""
    for line in (_text(_CGROUP) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "throttled_usec" and value.isdecimal():
            return int(value)
    return None


def _gpu_slowdowns() -> set[str]:
    fields = ",".join(f"clocks_throttle_reasons.{name}" for name in _SLOWDOWNS)
    rows = [row.split(", ") for row in _smi(fields)]
    return {name for row in rows for name, state in zip(_SLOWDOWNS, row, strict=False) if state.strip() == "Active"}


def process_bytes(name: str) -> int | None:
    """Resident memory of this process in bytes: `VmRSS` (now) or `VmHWM` (most so far); None where nobody tells.

    `getrusage` would not do: what it calls the maximum includes the process that started this one.
    """
    lines = (_text("/proc/self/status") or "").splitlines()
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) << 10 if found else None


def device_bytes() -> int | None:
    """Memory in use on all NVIDIA GPUs, by whomever; None without one."""
    rows = _smi("memory.used", "nounits")
    return sum(int(row) for row in rows if row.strip().isdecimal()) << 20 if rows else None


def _smi(fields: str, *more: str) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    form = ",".join(("csv", "noheader", *more))
    command = [tool, f"--query-gpu={fields}", f"--format={form}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _tf32() -> dict[str, bool] | None:
    """Whether PyTorch may round float32 products to 10 bits of mantissa on a GPU; None where there is none."""
    # a device need not have it
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None

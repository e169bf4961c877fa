"""What this machine's processor can do, as the operating system tells it."""

import os
import platform
from functools import lru_cache
from pathlib import Path

# instructions that multiply bfloat16 natively; without them an engine only imitates it, slower than float32
_BF16 = {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"}
# and 8-bit integers with 32-bit sums; without them the sums of an engine may saturate at 16 bits
_INT8 = {"amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "asimddp"}


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Names of the instruction sets as Linux writes them; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def native_bf16() -> bool:
    """Whether the processor multiplies bfloat16; False where the system does not tell."""
    return bool(_BF16 & cpu_flags())


def int8_unwise(precision: str) -> str | None:
    """Why `auto` should take another precision than int8 here, or None; int8 runs everywhere."""
    if precision == "int8" and not _INT8 & cpu_flags():
        return "this processor has no int8 instructions (AMX-INT8 or VNNI)"
    return None


def usable_cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

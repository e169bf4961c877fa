"""What this process holds of the machine, and whether it stays what it was after warming up."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ntre_deploy.bench.machine import process_bytes
from ntre_deploy.errors import EngineError

# share of the work after which caches and arenas are taken to be full
WARM_UP = 0.05
# what resident memory may gain from there to the end
MOST_GROWTH = 0.05
# samples of a run, evenly over the work
SAMPLES = 200


@dataclass(frozen=True)
class Sample:
    """One look at the process.

    Attributes:
        done: pieces of work that were finished.
        seconds: since the work began.
        resident_bytes: VmRSS.
        files: open file descriptors.
        threads: of all libraries.
    """

    done: int
    seconds: float
    resident_bytes: int
    files: int
    threads: int


class Watch:
    """Looks at the process while `total` pieces of work are done."""

    def __init__(self, total: int) -> None:
        self.samples: list[Sample] = []
        self._step = max(1, total // SAMPLES)
        self._began = time.perf_counter()
        self.look(0)

    def count(self, done: int) -> None:
        """Look, where it is time to."""
        if done % self._step == 0:
            self.look(done)

    def look(self, done: int) -> None:
        """Look now.

        Raises:
            EngineError: the system does not tell (no /proc).
        """
        resident = process_bytes("VmRSS")
        if resident is None:
            raise EngineError("This system has no /proc/self, which tells memory and open files; run it on Linux.")
        # the listing holds a descriptor of its own
        files = len(os.listdir("/proc/self/fd")) - 1
        threads = len(os.listdir("/proc/self/task"))
        self.samples.append(Sample(done, time.perf_counter() - self._began, resident, files, threads))


@dataclass(frozen=True)
class Verdict:
    """What the samples of a run come to.

    Attributes:
        figures: JSON values; bytes, counts, and shares.
        failed: a sentence for each thing that has not stayed.
    """

    figures: dict[str, Any]
    failed: tuple[str, ...]


def judge(samples: Sequence[Sample], total: int) -> Verdict:
    """Compare the process behind its warm-up with the process at the end.

    Resident memory is the median over as many samples as the warm-up has, directly behind it and at the end: what the
    threads happen to hold of their pictures at one moment is no growth.  The maximum is told, and judged by nobody.
    """
    settled = [s for s in samples if s.done >= WARM_UP * total]
    few = max(1, round(WARM_UP * len(samples)))
    if len(settled) < 2 * few:
        return Verdict({"samples": [asdict(s) for s in samples]}, ("The run was too short to be judged.",))
    after, end = (int(median(s.resident_bytes for s in part)) for part in (settled[:few], settled[-few:]))
    work = settled[-1].done - settled[0].done
    growth = end / after - 1
    files, threads = ([min(v), max(v)] for v in ([s.files for s in settled], [s.threads for s in settled]))
    failed = []
    if growth > MOST_GROWTH:
        failed.append(
            f"Resident memory grew by {growth:.1%} from {mib(after)} to {mib(end)} ({MOST_GROWTH:.0%} is allowed)."
        )
    for what, (least, most) in (("Open files", files), ("Threads", threads)):
        if least != most:
            failed.append(f"{what} did not stay constant: {least} to {most}.")
    figures = {
        "resident_bytes_at_start": samples[0].resident_bytes,
        "resident_bytes_after_warm_up": after,
        "resident_bytes_at_end": end,
        "resident_bytes_most": max(s.resident_bytes for s in samples),
        "growth": growth,
        "growth_allowed": MOST_GROWTH,
        "bytes_each": (end - after) / work,
        "files": files,
        "threads": threads,
        "samples": [asdict(s) for s in samples],
    }
    return Verdict(figures, tuple(failed))


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.1f} MiB"

"""What TensorRT says while it builds, as one line: phase, share and the time that is left."""

import time
from collections.abc import Callable
from typing import Any

from ntre_deploy.runtime.engines.tensorrt.api import Library

# with less than that done, the time that is left is a guess
_LEAST_SHARE = 0.05


class Phases:
    """Nested phases of a build; a phase's steps are spent by those inside it.

    Args:
        report: called with each new line.
        clock: seconds.
    """

    def __init__(self, what: str, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._report, self._clock = what, report, clock
        self._began = clock()
        # name -> (steps done, steps), the outermost first
        self._open: dict[str, tuple[int, int]] = {}

    def start(self, name: str, steps: int) -> None:
        """A phase begins inside those that are open."""
        self._open[name] = (0, max(steps, 1))
        self._tell()

    def step(self, name: str, step: int) -> None:
        """A step of a phase, counted from 0, is done."""
        if name in self._open:
            self._open[name] = (min(step + 1, self._open[name][1]), self._open[name][1])
            self._tell()

    def finish(self, name: str) -> None:
        """A phase has ended, whether or not all of its steps were told."""
        self._open.pop(name, None)

    def share(self) -> float:
        """Share of the outermost phase that is done, 0 to 1."""
        done, weight = 0.0, 1.0
        for steps_done, steps in self._open.values():
            done += weight * steps_done / steps
            weight /= steps
        return min(done, 1.0)

    def remaining(self) -> float | None:
        """Seconds until the outermost phase ends at the pace so far; None where that is a guess."""
        share = self.share()
        if share < _LEAST_SHARE:
            return None
        return (self._clock() - self._began) * (1 - share) / share

    def _tell(self) -> None:
        names = list(self._open)
        left = self.remaining()
        eta = "" if left is None else f", about {max(round(left), 1)} s left"
        self._report(f"{self._what}: {names[-1]}, {self.share():.0%}{eta}")


def make_monitor(library: Library, phases: Phases, stopped: Callable[[], bool] = lambda: False) -> Any:
    """An `IProgressMonitor` that feeds `phases`.

    An exception in it would pass through the library's own frames, which it does not survive: it is kept in `error`,
    and the build is told to stop.

    Args:
        stopped: asked after every step; the build ends where it says so.
    """
    base: Any = library.module.IProgressMonitor

    # the base class exists only where the library does
    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._keep(lambda: phases.start(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._keep(lambda: phases.step(phase_name, step))
            return self.error is None and not stopped()

        def phase_finish(self, phase_name: str) -> None:
            self._keep(lambda: phases.finish(phase_name))

        def _keep(self, call: Callable[[], None]) -> None:
            try:
                call()
            except BaseException as error:
                self.error = error

    return Monitor()

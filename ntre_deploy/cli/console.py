"""How sub-commands speak: results on stdout, progress on stderr and only on a terminal."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# what ends sooner needs no bar
_PATIENCE = 1.0
# log entries over which the time of a step is averaged: enough for validations and saves to count, few enough to
# follow a machine that becomes slower
_WINDOW = 100


def print_json(content: dict[str, Any]) -> None:
    """One JSON document on stdout, for machines."""
    print(json.dumps(content, indent=2))


def errors() -> Console:
    """The console for progress."""
    return Console(stderr=True)


@contextmanager
def steps(quiet: bool = False) -> Iterator[Any]:
    """A spinner with the present step; the yielded function names a new step."""
    console = errors()
    if quiet or not console.is_terminal:
        yield lambda step: None
        return
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(task, description=step)


class Advance(Protocol):
    """Counts items that are done."""

    def __call__(self, count: int = 1) -> None:
        """So many more are."""


@contextmanager
def counting(total: int | None, what: str, quiet: bool = False) -> Iterator[Advance]:
    """A bar over `total` items, where they take longer than a moment; the yielded function counts one, or several.

    Where the number of items is not known, `total` is None.
    """
    done = 0
    with _patient_bar(what, quiet) as show:

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            show(done, total)

        yield advance


@contextmanager
def reading_masks(quiet: bool = False, what: str = "reading masks") -> Iterator[Callable[[int, int], None]]:
    """A bar for the `progress` of `open_dataset` and its like, where that takes longer than a moment.

    It shows what is built inside the block; later calls of the yielded function do nothing.
    """
    with _patient_bar(what, quiet) as show:
        yield show


@contextmanager
def _patient_bar(what: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar that a terminal gets as soon as the work has taken longer than a moment."""
    console = errors()
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(what, total=None)
    began, over = time.monotonic(), False

    def show(done: int, total: int | None) -> None:
        if over:
            return
        bar.update(task, completed=done, total=total)
        if not bar.live.is_started and time.monotonic() - began > _PATIENCE:
            bar.start()

    try:
        yield show
    finally:
        over = True
        bar.stop()


class _Remaining:
    """Time that is left, from the pace of the last log entries."""

    def __init__(self, start: int, total: int) -> None:
        self._total = total
        self._seen = deque([(start, time.monotonic())], maxlen=_WINDOW)

    def after(self, step: int) -> str:
        """`h:mm:ss` until the last step, or a dash where nothing is known yet."""
        self._seen.append((step, time.monotonic()))
        (first, began), (last, now) = self._seen[0], self._seen[-1]
        if last <= first:
            return "-"
        return str(timedelta(seconds=round((self._total - last) * (now - began) / (last - first))))


@contextmanager
def training(start: int, total: int, quiet: bool = False) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """What a run from step `start` to `total` says; the yielded function takes a step and its figures.

    On a terminal a bar with the last figures of each kind and the time that is left, else a line for each call.
    """
    console, remaining = errors(), _Remaining(start, total)
    if quiet:
        yield lambda step, figures: None
        return
    if not console.is_terminal:
        yield lambda step, figures: note(f"step {step}/{total}  {_figures(figures)}  eta {remaining.after(step)}")
        return
    # how long the rest takes is the same estimate as in the lines, so rich's own is left out
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("eta {task.fields[eta]}"))
    bar, text, latest = Progress(*columns, console=console), Text(), dict[str, float]()
    task = bar.add_task("training", total=total, completed=start, eta="-")

    def show(step: int, figures: dict[str, float]) -> None:
        latest.update(figures)
        bar.update(task, completed=step, eta=remaining.after(step))
        text.plain = _figures(latest)

    with Live(Group(bar, text), console=console, transient=True):
        yield show


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def note(line: str) -> None:
    """A remark that is no result."""
    print(line, file=sys.stderr)

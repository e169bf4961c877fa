"""How sub-commands speak: results on stdout, progress on stderr and only on a terminal."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


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


@contextmanager
def counting(total: int, what: str, quiet: bool = False) -> Iterator[Any]:
    """A bar over `total` items; the yielded function counts one."""
    console = errors()
    if quiet or not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def note(line: str) -> None:
    """A remark that is no result."""
    print(line, file=sys.stderr)

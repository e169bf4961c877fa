"""What all commands of this folder share: opening what they measure, and writing what they found."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ntre_deploy.bench.runner import environment
from ntre_deploy.cli.console import note
from ntre_deploy.data.cached import CachedDataset
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet, sample_episodes, usable_classes
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import NtreError
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.bundle import Bundle

_INTERRUPTED = 130


@dataclass(frozen=True)
class Setting:
    """A bundle, a dataset, and how to measure."""

    bundle: Bundle
    checkpoint: Path | None
    dataset: Dataset
    threads: int
    rounds: int
    count: int
    seed: int
    before: dict[str, Any]

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Setting":
        """From the command line's options."""
        before = environment(args.threads)
        dataset = CachedDataset(open_dataset(args.dataset))
        bundle = Bundle.open(args.bundle)
        return cls(bundle, args.checkpoint, dataset, args.threads, args.rounds, args.count, args.seed, before)

    def episodes(self, shots: int, dataset: Dataset | None = None) -> EpisodeSet:
        """Episodes of all classes that have the images for it."""
        data = dataset or self.dataset
        return sample_episodes(data, usable_classes(data, data.class_names, shots), shots, self.count, self.seed)


def options(parser: argparse.ArgumentParser, count: int, rounds: int) -> None:
    """Add the options that every command has."""
    parser.add_argument("bundle", type=Path, help="bundle with every engine and precision to measure")
    parser.add_argument("--checkpoint", type=Path, help="the bundle's; found beside it by default")
    parser.add_argument("--dataset", default="procedural", help="as of `ntre bench` (default: procedural)")
    parser.add_argument("--count", type=int, default=count, help=f"episodes (default: {count})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds (default: {rounds})")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every system (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")


def write(path: Path, setting: Setting, found: dict[str, Any]) -> None:
    """Write a result of this folder with what it depends on."""
    write_result(path, "benchmarks/cpu", setting.bundle, setting.seed, setting.before, found)


def write_result(
    path: Path, folder: str, bundle: Bundle, seed: int, before: dict[str, Any], found: dict[str, Any]
) -> None:
    """Write what the benchmark in `folder` found, with what it depends on; `before` is the machine's `environment`."""
    model = bundle.manifest.model
    report = {
        "command": shlex.join(["python", folder, *_portable(sys.argv[1:])]),
        "seed": seed,
        "model": {
            "backbone": model.config["backbone"],
            "input_size": bundle.manifest.input.size,
            "checkpoint_sha256": model.checkpoint_sha256,
            "head": model.origin.get("head", "trained"),
        },
        "environment": before,
        **found,
    }
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on the terminal, or in a pipe with its whole width."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


@contextmanager
def ending() -> Iterator[None]:
    """Errors for the user as one line and an exit code, as `ntre` gives them."""
    try:
        yield
    except NtreError as error:
        note(f"error: {error}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        note("interrupted")
        raise typer.Exit(_INTERRUPTED) from error


def _portable(words: list[str]) -> list[str]:
    """A command's words without the folders of the machine it ran on."""
    return [":".join(Path(part).name for part in word.split(":")) if "/" in word else word for word in words]

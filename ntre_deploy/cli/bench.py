"""`ntre bench`: latency and parity of a bundle's engines against PyTorch."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ntre_deploy.cli.console import counting, print_json
from ntre_deploy.cli.episodes import (
    CountOption,
    DatasetOption,
    Draw,
    EpisodesOption,
    FoldOption,
    SeedOption,
    ShotsOption,
    SplitOption,
    open_episodes,
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The bundle's checkpoint. (default: found beside the bundle)")
    ] = None,
    dataset: DatasetOption = "procedural",
    episodes: EpisodesOption = None,
    shots: ShotsOption = None,
    count: CountOption = None,
    seed: SeedOption = None,
    fold: FoldOption = None,
    split: SplitOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timings of each query by each system.")] = 2,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of every system.")] = 2,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the report and overlays.")] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Episodes shown in the report.")] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a bundle's engines and PyTorch on the same episodes, interleaved.

    Example: ntre bench model.ntre --dataset coco:instances_val.json --shots 5 --out report
    """
    draw = Draw(dataset, episodes, shots, count, seed, fold, split, quiet=as_json)
    report = run(bundle, checkpoint, draw, rounds, threads, out, pictures, quiet=as_json)
    if as_json:
        print_json(report)


def run(
    folder: Path,
    checkpoint: Path | None,
    draw: Draw,
    rounds: int,
    threads: int,
    out: Path | None,
    pictures: int,
    quiet: bool = False,
) -> dict[str, Any]:
    """The bench behind the command and the demo; prints its table unless `quiet`, and returns the report."""
    from rich.console import Console

    from ntre_deploy.bench.report import build_report, table, write_report
    from ntre_deploy.bench.runner import environment, run_bench
    from ntre_deploy.bench.systems import build_systems, find_checkpoint
    from ntre_deploy.files import check_folder
    from ntre_deploy.runtime.bundle import Bundle

    opened = Bundle.open(folder)
    data, drawn = open_episodes(draw)
    if out is not None:
        check_folder(out)
    before = environment(threads)
    systems, skipped = build_systems(opened, find_checkpoint(opened, checkpoint), threads)
    with counting(len(drawn.episodes), "measuring", quiet) as advance:
        results, kept = run_bench(
            systems,
            opened.manifest.input,
            data,
            drawn,
            rounds=rounds,
            pictures=pictures if out is not None else 0,
            progress=advance,
        )
    command = shlex.join(["ntre", *sys.argv[1:]])
    report = build_report(opened, drawn, results, skipped, before, command)
    written = write_report(out, report, kept) if out is not None else []
    if not quiet:
        console = Console()
        # a pipe has no width; the table must not be cut to one that was guessed
        console.print(table(report)) if console.is_terminal else Console(width=120).print(table(report))
        for name, reason in skipped.items():
            print(f"not run: {name}: {reason}")
        for warning in report["warnings"]:
            print(f"warning: {warning}")
        if written:
            print(f"report: {written[1]}")
    return report

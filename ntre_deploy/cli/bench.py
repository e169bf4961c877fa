"""`ntre bench`: latency and parity of bundles' engines against PyTorch, and gates on both."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from ntre_deploy.errors import EngineError, GateError

if TYPE_CHECKING:
    from ntre_deploy.bench.gates import Gates
    from ntre_deploy.bench.session import Plan

_GATES = "Gates: a failed one ends with exit code 1"


def _schema(wanted: bool) -> None:
    if wanted:
        from ntre_deploy.bench.report.schema import schema_text

        print(schema_text(), end="")
        raise typer.Exit


def _gate(kind: type, name: str, text: str) -> Any:
    return Annotated[kind | None, typer.Option(name, rich_help_panel=_GATES, help=text, show_default=False)]


def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders.", show_default=False)],
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A bundle's. (default: found beside the bundle)")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", metavar="NAME[:PRECISION]", help="Only these. (default: all)")
    ] = None,
    dataset: DatasetOption = "procedural",
    episodes: EpisodesOption = None,
    shots: ShotsOption = None,
    count: CountOption = None,
    seed: SeedOption = None,
    fold: FoldOption = None,
    split: SplitOption = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Time measured of each system, at least; 0: --rounds alone.")
    ] = 3.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timings of each query by each system, at least.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of every system.")] = 2,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Threads of the throughput, each with a segmenter; 0: none.")
    ] = 2,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Load time and peak memory, each in a new process.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html, report.md, bench.json and sheet.png.")
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Worst episodes shown in the report.")] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", callback=_schema, is_eager=True, help="Print the JSON Schema of the report.")
    ] = False,
    max_miou_drop: _gate(float, "--max-miou-drop", "Points of mIoU below PyTorch, such as 0.5.") = None,
    min_pixel_agreement: _gate(float, "--min-pixel-agreement", "Percent of pixels as PyTorch's, such as 99.9.") = None,
    max_p50: _gate(float, "--max-p50", "Milliseconds of the median query, end to end.") = None,
    max_p99: _gate(float, "--max-p99", "Milliseconds of all queries but one in a hundred.") = None,
    min_speedup: _gate(float, "--min-speedup", "Against PyTorch's full network, such as 4.") = None,
    against: _gate(Path, "--against", "The bench.json of an earlier run on the same episodes.") = None,
    max_slowdown: _gate(float, "--max-slowdown", "Percent slower than in that run. (default: 10)") = None,
) -> None:
    """Measure bundles' engines and PyTorch on the same episodes, interleaved.

    Example: ntre bench model.ntre --dataset coco:instances_val.json --shots 5 --out report
    """
    from ntre_deploy.bench.baseline import read_baseline
    from ntre_deploy.bench.gates import Gates
    from ntre_deploy.bench.session import Plan

    gates = Gates(
        max_miou_drop=max_miou_drop,
        min_pixel_agreement=min_pixel_agreement,
        max_p50=max_p50,
        max_p99=max_p99,
        min_speedup=min_speedup,
        against=None if against is None else read_baseline(against),
        max_slowdown=max_slowdown,
    )
    draw = Draw(dataset, episodes, shots, count, seed, fold, split, quiet=as_json)
    plan = Plan(
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        workers=workers,
        memory=memory,
        pictures=pictures if out is not None else 0,
    )
    run(bundles, checkpoint or [], draw, plan, out=out, engines=engine or [], gates=gates, as_json=as_json)


def run(
    folders: Sequence[Path],
    checkpoints: Sequence[Path],
    draw: Draw,
    plan: "Plan",
    *,
    out: Path | None = None,
    engines: Sequence[str] = (),
    gates: "Gates | None" = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """The bench behind the command and the demo: prints its tables (or JSON) and returns the report.

    Raises:
        InputError: something given cannot be used.
        EngineError: an engine is not there or failed; gates without any engine to judge.
        GateError: a gate failed; the report has been printed and written.
    """
    from ntre_deploy.bench.gates import Gates, check_gates, failures
    from ntre_deploy.bench.groups import PYTORCH, find_bundles, open_groups
    from ntre_deploy.bench.machine import environment, hardware
    from ntre_deploy.bench.report import write_report
    from ntre_deploy.bench.session import measure
    from ntre_deploy.bench.systems import parse_engine
    from ntre_deploy.files import check_folder

    gates = gates or Gates()
    wanted = [parse_engine(text) for text in engines]
    opened = find_bundles(folders, checkpoints)
    notes: list[str] = []
    data, drawn = open_episodes(replace(draw, warn=notes.append))
    if gates.against is not None:
        gates.against.check_episodes(drawn.hash)
    if out is not None:
        check_folder(out)
    before = environment(plan.threads) | hardware()
    open_groups(opened, plan.threads, wanted)
    if gates.asked and not any(system.name not in PYTORCH for group in opened.groups for system in group.systems):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in opened.skipped.items())
        raise EngineError(f"No engine of the bundle runs here, so there is nothing to judge ({reasons}).")
    report, pictures = measure(
        opened,
        data,
        drawn,
        plan,
        environment=before,
        command=shlex.join(["ntre", *sys.argv[1:]]),
        counting=lambda total, what: counting(total, what, as_json),
        notes=notes,
    )
    report["gates"] = check_gates(gates, report)
    written = write_report(out, report, pictures) if out is not None else {}
    if as_json:
        print_json(report)
    else:
        _print(report, plan, written)
    if failed := failures(report["gates"]):
        raise GateError(failed)
    return report


def _print(report: dict[str, Any], plan: "Plan", written: dict[str, Path]) -> None:
    from rich.console import Console

    from ntre_deploy.bench.report import costs, table

    console = Console()
    # a pipe has no width; the table must not be cut to one that was guessed
    wide = console if console.is_terminal else Console(width=160)
    wide.print(table(report))
    wide.print(costs(report))
    for name, reason in report["skipped"].items():
        print(f"not run: {name}: {reason}")
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    for check in report["gates"]:
        if check["passed"]:
            print(f"passed: {check['text']}")
    if plan.seconds:
        longer = f"{10 * plan.seconds:g}"
        print(f"each system ran for at least {plan.seconds:g} s; for steadier percentiles: --seconds {longer}")
    for what, path in written.items():
        print(f"{what}: {path}")

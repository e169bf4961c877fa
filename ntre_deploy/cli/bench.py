"""`ntre bench`: latency and parity of bundles' engines against PyTorch, and gates on both."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntre_deploy.cli.console import counting, print_json, steps
from ntre_deploy.cli.engines import NAME, one_engine
from ntre_deploy.cli.episodes import PANEL, Draw, EpisodeOptions, open_episodes, open_ways
from ntre_deploy.cli.grouped import grouped, option
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import EngineError, GateError, InputError, one_of

if TYPE_CHECKING:
    from ntre_deploy.bench.gates import Gates
    from ntre_deploy.bench.reference import Reference
    from ntre_deploy.bench.session import Plan
    from ntre_deploy.bench.systems import Wanted
    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.data.episodes import EpisodeSet
    from ntre_deploy.data.ways import WaysSet


def _schema(wanted: bool) -> None:
    if wanted:
        from ntre_deploy.bench.report.schema import schema_text

        print(schema_text(), end="")
        raise typer.Exit


_how, _told = partial(option, "How it is measured"), partial(option, "Results")
_gate = partial(option, "Gates: one that fails ends with exit code 1")


@grouped
def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE", help="Bundle folders.", show_default=False)],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="SPEC",
            help="As for eval, or reference: the bundle's own.",
            show_default="that without PyTorch, else procedural",
            rich_help_panel=PANEL,
        ),
    ] = None,
    *,
    episodes: EpisodeOptions,
    checkpoint: Annotated[
        list[Path] | None, _how("--checkpoint", "FILE", "Compared with.", show_default="found beside the bundle")
    ] = None,
    engine: Annotated[
        list[str] | None, _how("--engine", NAME, "As for segment; repeatable.", show_default="all")
    ] = None,
    precision: Annotated[
        list[str] | None, _how("--precision", "NAME", "As for segment; repeatable.", show_default="all")
    ] = None,
    device_images: Annotated[
        bool, _how("--device-images", None, "GPU engines once more, with images and masks on it.")
    ] = False,
    seconds: Annotated[float, _how("--seconds", "S", "Timed for each system, at least.", min=0)] = 3.0,
    rounds: Annotated[int, _how("--rounds", "N", "Timings of each query, at least.", min=1)] = 1,
    threads: Annotated[int, _how("--threads", "N", "CPU threads of every system.", min=1)] = 2,
    trusted: TrustedOption = None,
    workers: Annotated[int, _how("--workers", "N", "Segmenters at once, for throughput.", min=0)] = 2,
    no_memory: Annotated[bool, _how("--no-memory", None, "Leave out load time and peak memory.")] = False,
    out: Annotated[Path | None, _told("--out|-o", "FOLDER", "For report.html, bench.json and more.")] = None,
    pictures: Annotated[int, _told("--pictures", "N", "Worst episodes in the report.", min=0)] = 6,
    as_json: Annotated[bool, _told("--json", None, "Print the report as JSON.")] = False,
    schema: Annotated[
        bool, _told("--schema", None, "Print the report's JSON Schema.", callback=_schema, is_eager=True)
    ] = False,
    max_miou_drop: Annotated[
        float | None, _gate("--max-miou-drop", "POINTS", "Of mIoU below PyTorch, such as 0.5.")
    ] = None,
    min_pixel_agreement: Annotated[
        float | None, _gate("--min-pixel-agreement", "PERCENT", "Of pixels as PyTorch's, such as 99.9.")
    ] = None,
    max_p50: Annotated[float | None, _gate("--max-p50", "MS", "Of the median query, end to end.")] = None,
    max_p99: Annotated[float | None, _gate("--max-p99", "MS", "Of all queries but one in a hundred.")] = None,
    min_speedup: Annotated[
        float | None, _gate("--min-speedup", "FACTOR", "Faster than PyTorch's full network.")
    ] = None,
    against: Annotated[Path | None, _gate("--against", "FILE", "bench.json of an earlier run.")] = None,
    max_slowdown: Annotated[
        float | None, _gate("--max-slowdown", "PERCENT", "Slower than in that run.", show_default="10")
    ] = None,
) -> None:
    """Measure bundles' engines and PyTorch on the same episodes, interleaved.

    Example: ntre bench model.ntre --dataset coco:instances_val.json --shots 5 --out report
    """
    from ntre_deploy.bench.baseline import read_baseline
    from ntre_deploy.bench.gates import Gates
    from ntre_deploy.bench.reference import SPEC
    from ntre_deploy.bench.session import Plan
    from ntre_deploy.bench.systems import WANTED

    # without a precision, all of an engine's; without an engine, all that have the precision
    each: Sequence[str | None] = precision or [None]
    wanted = [one_engine(text, p) for text in engine or ["all"] for p in each]
    for name, _ in wanted:
        one_of(name, WANTED, "Engine")
    gates = Gates(
        max_miou_drop=max_miou_drop,
        min_pixel_agreement=min_pixel_agreement,
        max_p50=max_p50,
        max_p99=max_p99,
        min_speedup=min_speedup,
        against=None if against is None else read_baseline(against),
        max_slowdown=max_slowdown,
    )
    episodes.check()
    if dataset == SPEC and episodes.drawn:
        raise InputError(f"--dataset {SPEC} is the episodes that the export stored; leave out the options that draw.")
    draw = episodes.draw(dataset or "procedural", quiet=as_json)
    plan = Plan(
        seconds=seconds,
        rounds=rounds,
        threads=threads,
        workers=workers,
        memory=not no_memory,
        pictures=pictures if out is not None else 0,
        calibrate=not episodes.no_calibrate,
    )
    run(
        bundles,
        checkpoint or [],
        draw,
        plan,
        out=out,
        engines=wanted,
        device_images=device_images,
        gates=gates,
        as_json=as_json,
        trusted=trusted or (),
        reference=True if dataset == SPEC else None if dataset is None and not episodes.drawn else False,
    )


def run(
    folders: Sequence[Path],
    checkpoints: Sequence[Path],
    draw: Draw,
    plan: "Plan",
    *,
    out: Path | None = None,
    engines: "Sequence[Wanted]" = (),
    device_images: bool = False,
    gates: "Gates | None" = None,
    as_json: bool = False,
    trusted: Sequence[Path] = (),
    reference: bool | None = False,
) -> dict[str, Any]:
    """The bench behind the command and the demo: prints its tables (or JSON) and returns the report.

    Args:
        reference: run the episodes of the bundles' reference sets in the place of drawn ones; None does where PyTorch
            is not compared with, and sets are there.

    Raises:
        InputError: something given cannot be used.
        EngineError: an engine is not there or failed; gates without any engine to judge.
        GateError: a gate failed; the report has been printed and written.
    """
    from ntre_deploy.bench.gates import Gates, check_gates, failures
    from ntre_deploy.bench.groups import find_bundles, open_groups
    from ntre_deploy.bench.machine import environment, hardware
    from ntre_deploy.bench.pytorch import is_pytorch
    from ntre_deploy.bench.reference import demand_reference, open_reference
    from ntre_deploy.bench.report import write_report
    from ntre_deploy.bench.session import measure
    from ntre_deploy.files import check_folder

    gates = gates or Gates()
    opened = find_bundles(folders, checkpoints, trusted)
    notes = _lacking(out)
    noting = replace(draw, warn=notes.append)
    stored: Reference | str | None = None
    if reference:
        stored = demand_reference(opened.bundles)
    elif reference is None and opened.lacking:
        stored = open_reference(opened.bundles)
        if isinstance(stored, str):
            notes.append(f"{stored}: it would add parity with PyTorch's masks and logits")
    data: Dataset
    drawn: EpisodeSet | WaysSet
    if stored is None or isinstance(stored, str):
        stored = None
        data, drawn = open_ways(noting) if (draw.ways or 1) > 1 else open_episodes(noting)
    else:
        data, drawn = stored.dataset, stored.dataset.episodes
    if gates.against is not None:
        gates.against.check_episodes(drawn.hash)
    if out is not None:
        check_folder(out)
    before = environment(plan.threads) | hardware()
    with steps(as_json) as step:
        step("opening engines")
        kept = None if stored is None else stored.stored
        open_groups(opened, plan.threads, engines, device_images=device_images, stored=kept)
    if gates.asked and not any(not is_pytorch(system.name) for group in opened.groups for system in group.systems):
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
        notes=[*notes, *opened.notes],
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


def _lacking(out: Path | None) -> list[str]:
    """What is not installed, and what it would add."""
    from ntre_deploy.bench.machine import has_psutil
    from ntre_deploy.bench.report import has_jinja

    found = []
    if not has_psutil():
        found.append("psutil is not installed: it would add clock, memory, and what other processes did to the figures")
    if out is not None and not has_jinja():
        found.append("jinja2 is not installed: it would add report.html")
    return [f"{text} (pip install 'ntre_deploy[bench]')" for text in found]


def _print(report: dict[str, Any], plan: "Plan", written: dict[str, Path]) -> None:
    from rich.console import Console

    from ntre_deploy.bench.report import costs, table, ways

    console = Console()
    # a pipe has no width; the table must not be cut to one that was guessed
    wide = console if console.is_terminal else Console(width=160)
    wide.print(table(report))
    if (several := ways(report)) is not None:
        wide.print(several)
    wide.print(costs(report))
    for stored in report["stored"]:
        print(f"compared with {stored['label']} in {stored['bundle']}: mIoU {100 * stored['miou']:.2f}")
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

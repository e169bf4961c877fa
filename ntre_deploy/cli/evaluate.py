"""`ntre eval`: accuracy of a checkpoint or a bundle on few-shot episodes."""

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntre_deploy.cli.console import counting, print_json
from ntre_deploy.cli.engines import EngineOption, PrecisionOption, ThreadsOption, one_engine
from ntre_deploy.cli.episodes import DatasetOption, Draw, ManyEpisodeOptions, open_episodes, open_ways
from ntre_deploy.cli.grouped import grouped
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import InputError, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.data.episodes import EpisodeSet
    from ntre_deploy.training.evaluator import Pixels, Run, Shots, Stages
    from ntre_deploy.training.ways import WaysRun


@dataclass(frozen=True)
class _Target:
    """What is evaluated: how it runs with one class and (calibrated or not) with several, and what the report says."""

    run: "Run"
    ways: "Callable[[bool], WaysRun]"
    explain: "Callable[[Pixels, Shots], Stages] | None"
    model: dict[str, Any]
    engine: dict[str, Any]


@grouped
def command(
    target: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT|BUNDLE", help="Or a name of `ntre models`.", show_default=False)
    ],
    dataset: DatasetOption = "procedural",
    *,
    episodes: ManyEpisodeOptions,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    trusted: TrustedOption = None,
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="exact or released.")] = "exact",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="For eval.json, episodes.csv, sheet.png.")
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", metavar="N", min=0, help="Episodes in the sheet.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure mIoU, FB-IoU and precision on episodes, with bootstrap intervals.

    --protocol released has the rounding and padding of the authors' code.
    With --ways N, each query is segmented by N classes at once and by each alone.

    Example: ntre eval model.safetensors --dataset coco:val.json --out results
    """
    from ntre_deploy.model.registry import MODELS, checkpoint_file
    from ntre_deploy.training.evaluation_report import PROTOCOLS

    one_of(protocol, PROTOCOLS, "Protocol")
    several = episodes.ways is not None and episodes.ways > 1
    if several and protocol == "released":
        raise InputError(
            f"--ways {episodes.ways} is for --protocol exact: the authors' code knows one class at a time; "
            "leave one out."
        )
    episodes.check()
    name, asked = one_engine(engine, precision)
    named = str(target) in MODELS and target.is_dir() and not (target / "manifest.json").is_file()
    if named or not target.exists():
        if target.suffix == ".ntre":
            raise InputError(f"Bundle {target} does not exist; make one with `ntre export CHECKPOINT --out {target}`.")
        target = checkpoint_file(target)
    if not target.is_dir():
        given = (("--engine", None if engine == "auto" else engine), ("--precision", precision))
        for option, value in (*given, ("--trusted", trusted[0] if trusted else None)):
            if value is not None:
                raise InputError(
                    f"{option} {value} is for bundles, and the checkpoint {target} runs in PyTorch fp32; "
                    f"make a bundle of it with `ntre export {target}`, or leave the option out."
                )
    from ntre_deploy.bench.runner import environment
    from ntre_deploy.files import check_folder

    if out is not None:
        check_folder(out)
    # the model comes first: it is refused within seconds, while the lists of a large dataset may take minutes
    if target.is_dir():
        opened = _bundle(target, name, asked, threads, protocol, trusted or None)
    else:
        opened = _checkpoint(target, threads, protocol)
    left_out: list[str] = []
    draw = episodes.draw(dataset, quiet=as_json, default_count=1000, warn=left_out.append)
    told = {
        "model": opened.model,
        "engine": opened.engine,
        "environment": environment(threads),
        "command": shlex.join(["ntre", *sys.argv[1:]]),
    }
    shown = pictures if out is not None else 0
    if several:
        report, write = _several(opened, draw, told, shown, not episodes.no_calibrate)
    else:
        report, write = _one(opened, draw, told, shown, protocol)
    report["warnings"] += left_out
    written = write(out) if out is not None else {}
    if as_json:
        print_json(report)
        return
    _print(report, written)


def _one(
    opened: _Target, draw: Draw, told: dict[str, Any], pictures: int, protocol: str
) -> "tuple[dict[str, Any], Callable[[Path], dict[str, Path]]]":
    """Evaluate one class at a time; the report, and what writes it to a folder."""
    from ntre_deploy.training.evaluation_report import build_report, write_report
    from ntre_deploy.training.evaluator import evaluate

    data, drawn = _released_episodes(draw) if protocol == "released" else open_episodes(draw)
    with counting(len(drawn.episodes), "evaluating", draw.quiet) as advance:
        found = evaluate(opened.run, data, drawn, advance, pictures=pictures, explain=opened.explain)
    report = build_report(found, drawn, **told, protocol=protocol)
    return report, lambda folder: write_report(folder, report, found, drawn)


def _several(
    opened: _Target, draw: Draw, told: dict[str, Any], pictures: int, calibrate: bool
) -> "tuple[dict[str, Any], Callable[[Path], dict[str, Path]]]":
    """Evaluate N classes at a time; the report, and what writes it to a folder."""
    from ntre_deploy.training.ways import evaluate_ways
    from ntre_deploy.training.ways_report import build_ways_report, write_ways_report

    data, drawn = open_ways(draw)
    with counting(len(drawn.episodes), "evaluating", draw.quiet) as advance:
        found = evaluate_ways(opened.ways(calibrate), data, drawn, advance, pictures=pictures)
    report = build_ways_report(found, drawn, **told, calibrated=calibrate)
    return report, lambda folder: write_ways_report(folder, report, found, drawn)


def _print(report: dict[str, Any], written: dict[str, Path]) -> None:
    from rich.console import Console

    from ntre_deploy.training.evaluation_report import heading, table
    from ntre_deploy.training.ways_report import confusion_table, ways_lines

    print(heading(report))
    console = Console()
    # a pipe has no width; the table must not be cut to one that was guessed
    wide = console if console.is_terminal else Console(width=120)
    wide.print(table(report))
    if "ways" in report:
        if (matrix := confusion_table(report["ways"]["confusion"])) is not None:
            wide.print(matrix)
        for line in ways_lines(report):
            print(line)
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    for what, path in written.items():
        print(f"{what}: {path}")


def _released_episodes(draw: Draw) -> "tuple[Dataset, EpisodeSet]":
    """As `open_episodes`, with the released loop's one episode too many; a file that is there is run as it is.

    Raises:
        InputError: as `open_episodes`, or --count and the file do not agree.
    """
    from ntre_deploy.training.released import EXTRA_EPISODES

    wanted = None if draw.count is None else draw.count + EXTRA_EPISODES
    there = draw.episodes is not None and draw.episodes.exists()
    more = replace(draw, count=None if there else wanted, default_count=draw.default_count + EXTRA_EPISODES)
    data, drawn = open_episodes(more)
    if wanted is not None and len(drawn.episodes) != wanted:
        raise InputError(
            f"--count {draw.count} is {wanted} episodes under the released protocol, but {draw.episodes} has "
            f"{len(drawn.episodes)}; leave out --count to run those, or name a new file."
        )
    return data, drawn


def _checkpoint(path: Path, threads: int | None, protocol: str) -> _Target:
    """The training graph in PyTorch."""
    import torch

    from ntre_deploy.export.torch_engines import FullNetwork
    from ntre_deploy.files import sha256
    from ntre_deploy.model.checkpoint import load_checkpoint
    from ntre_deploy.model.config import input_spec
    from ntre_deploy.training.released_network import released_run
    from ntre_deploy.training.runs import NetworkRun
    from ntre_deploy.training.ways_runs import network_ways

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_checkpoint(path)
    config = loaded.model.config
    spec = input_spec(config)
    network = FullNetwork(loaded.model, spec)
    run = released_run(loaded.model, spec) if protocol == "released" else NetworkRun(network)
    model = {
        "kind": "checkpoint",
        "name": path.name,
        "checkpoint_sha256": sha256(path),
        "config": config.to_dict(),
        "input_size": config.input_size,
        "origin": loaded.origin,
    }
    engine = {"name": "pytorch", "precision": "fp32", "threads": threads}
    return _Target(run, partial(network_ways, network), run.stages, model, engine)


def _bundle(
    folder: Path,
    engine: str,
    precision: str | None,
    threads: int | None,
    protocol: str,
    trusted: "Sequence[Path] | None",
) -> _Target:
    """An engine of a bundle; needs no torch."""
    from ntre_deploy.runtime.bundle import Bundle
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.training import released, runs
    from ntre_deploy.training.ways_runs import segmenter_ways

    manifest = Bundle.open(folder, trusted=trusted).manifest
    segmenter = Segmenter.load(folder, engine, precision=precision, threads=threads, trusted=trusted)
    model = {
        "kind": "bundle",
        "name": manifest.name,
        "checkpoint_sha256": manifest.model.checkpoint_sha256,
        "config": manifest.model.config,
        "input_size": manifest.input.size,
        "origin": manifest.model.origin,
    }
    ran = {"name": segmenter.engine.name, "precision": segmenter.engine.precision, "threads": threads}
    run = (released if protocol == "released" else runs).segmenter_run(segmenter)
    return _Target(run, partial(segmenter_ways, segmenter), None, model, ran | {"reason": segmenter.reason})

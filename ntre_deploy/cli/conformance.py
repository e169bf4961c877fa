"""`ntre conformance`: a kit by which every runtime of a bundle shows that it does what Python's does."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import print_json, steps
from ntre_deploy.cli.engines import EngineOption, PrecisionOption, ThreadsOption, one_engine
from ntre_deploy.errors import GateError, InputError

if TYPE_CHECKING:
    from ntre_deploy.conformance.result import CaseResult, KitResult, StepResult


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="KIT", help="Write a kit to this folder.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="KIT", help="Run this kit on an engine of Python's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the kit's images and memories.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing kit.")] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    out_json: Annotated[
        Path | None,
        typer.Option("--out-json", metavar="FILE", help="Write the result of --check, as every runner does."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a conformance kit of a bundle, or run one.

    Exit code: 0 the engine conforms; 1 it does not.

    Example: ntre conformance model.ntre --out kit
    """
    if (out is None) == (check is None):
        raise InputError("Either --out KIT, which writes a kit, or --check KIT, which runs one, is needed.")
    if out is not None:
        if engine != "auto" or precision or threads or out_json is not None:
            raise InputError("--engine, --precision, --threads and --out-json are for --check; a kit is made in fp32.")
        _write(bundle, out, seed, force, as_json)
        return
    if seed or force:
        raise InputError("--seed and --force are for --out; leave them out.")
    assert check is not None
    name, own = one_engine(engine, precision)
    result = _run(bundle, check, name, own, threads)
    content = result.to_json()
    if out_json is not None:
        from ntre_deploy.files import atomic_file

        with atomic_file(out_json) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    if as_json:
        print_json(content)
    else:
        _show(result)
    if failed := [case.name for case in result.cases if not case.passed]:
        which = f"{result.runtime['engine']} {result.runtime['precision']}"
        raise GateError(f"{which} fails {len(failed)} of {len(result.cases)} cases of {check}: {_few(failed)}.")


def _write(bundle: Path, out: Path, seed: int, force: bool, as_json: bool) -> None:
    from ntre_deploy.conformance.kit import Kit
    from ntre_deploy.conformance.writing import write_kit

    with steps(as_json) as tell:
        size = write_kit(bundle, out, seed=seed, replace_old=force, tell=tell)
    kit = Kit.open(out)
    if as_json:
        print_json({"kit": str(out), "bytes": size, "cases": len(kit.content["cases"]), "sha256": kit.sha256})
        return
    kinds = [case["kind"] for case in kit.content["cases"]]
    counts = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in dict.fromkeys(kinds))
    print(f"wrote {out}: {len(kinds)} cases ({counts}), {size / 1e6:.1f} MB")


def _run(bundle: Path, check: Path, engine: str, precision: str | None, threads: int | None) -> "KitResult":
    from ntre_deploy.conformance.kit import Kit
    from ntre_deploy.conformance.running import run_kit

    with steps() as tell:
        return run_kit(Kit.open(check), bundle, engine, precision, threads=threads, tell=tell)


def _show(result: "KitResult") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("kind", "step", "cases", "worst", "allowed", "", box=None, pad_edge=False)
    for (kind, step), own in _by_step(result).items():
        found = [one.measured for one in own]
        right = all(one.passed for one in own)
        # not comparable is worse than any number
        worst = "none" if None in found else f"{max(m for m in found if m is not None):.2g}"
        allowed = f"{max(one.tolerance for one in own):.2g}"
        table.add_row(kind, step, str(len(own)), worst, allowed, "[green]ok[/]" if right else "[red]fails[/]")
    console.print(table)
    for case in result.cases:
        if not case.passed:
            console.print(f"[red]{escape(case.name)}[/]: {escape(_why(case))}")
    skipped = {case.skipped for case in result.cases if case.skipped}
    if skipped:
        count = sum(case.skipped is not None for case in result.cases)
        console.print(f"{count} cases were skipped; this runtime lacks: {', '.join(sorted(skipped))}")
    if result.passed:
        console.print(f"{result.runtime['engine']} {result.runtime['precision']} conforms: {len(result.cases)} cases")


def _by_step(result: "KitResult") -> dict[tuple[str, str], "list[StepResult]"]:
    found: dict[tuple[str, str], list[StepResult]] = {}
    for case in result.cases:
        for step in case.steps:
            found.setdefault((case.kind, step.name), []).append(step)
    return found


def _why(case: "CaseResult") -> str:
    off = [
        f"{step.name} {'cannot be compared' if step.measured is None else f'{step.measured:.2g}'} "
        f"({step.tolerance:.2g} allowed)"
        for step in case.steps
        if not step.passed
    ]
    return "; ".join([*off, *([case.message] if case.message else [])])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

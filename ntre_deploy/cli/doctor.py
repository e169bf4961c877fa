"""`ntre doctor`: what this machine can run, and why not."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json
from ntre_deploy.errors import InputError

_MARKS = {"ok": "[green]ok     [/]", "absent": "[dim]absent [/]", "problem": "[red]problem[/]"}


def command(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Also load this bundle by every engine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Tell what this machine can run, and what would mend the rest; exit code 3 when no engine can.

    Example: ntre doctor --bundle model.ntre
    """
    from rich.console import Console
    from rich.markup import escape

    from ntre_deploy.runtime.doctor import can_run, diagnose

    if bundle is not None and not bundle.exists():
        raise InputError(f"Bundle {bundle} does not exist; make one with `ntre export CHECKPOINT`.")
    findings = diagnose(bundle)
    if as_json:
        print_json({"can_run": can_run(findings), "findings": [asdict(f) for f in findings]})
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            fix = f" [bold]-> {escape(finding.fix)}[/]" if finding.fix else ""
            console.print(f"{_MARKS[finding.status]} {finding.subject:<24} {escape(finding.text)}{fix}")
    if not can_run(findings):
        raise typer.Exit(3)

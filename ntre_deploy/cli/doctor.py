"""`ntre doctor`: what this machine can run, and why not."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import print_json
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.doctor.findings import Finding

_MARKS = {
    "ok": "[green]ok     [/]",
    "absent": "[dim]absent [/]",
    "warning": "[yellow]warning[/]",
    "problem": "[red]problem[/]",
}


def command(
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Check this bundle against the machine too.", show_default=False)
    ] = None,
    trusted: TrustedOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Tell what this machine can run, and what mends the rest.

    Exit code: 0 usable; 1 something is broken; 3 nothing is, but no engine can run.

    Example: ntre doctor --bundle model.ntre
    """
    from rich.console import Console
    from rich.markup import escape

    from ntre_deploy.doctor import can_run, diagnose, exit_code

    if bundle is not None and not bundle.exists():
        raise InputError(f"Bundle {bundle} does not exist; make one with `ntre export CHECKPOINT`.")
    if trusted and bundle is None:
        raise InputError("--trusted is for a bundle; add --bundle BUNDLE, or leave it out.")
    findings = diagnose(bundle, trusted=trusted or ())
    code = exit_code(findings)
    if as_json:
        content = {"can_run": can_run(findings), "exit_code": code, "findings": [asdict(f) for f in findings]}
        print_json(content)
    else:
        console = Console(highlight=False, soft_wrap=True)
        width = max(len(finding.subject) for finding in findings)
        group = ""
        for finding in findings:
            if finding.group != group:
                group = finding.group
                console.print(f"[bold]{group}[/]")
            fix = f" [bold]-> {escape(finding.fix)}[/]" if finding.fix else ""
            console.print(f"{_MARKS[finding.status]} {finding.subject:<{width}} {escape(finding.text)}{fix}")
        console.print(escape(_verdict(findings, code)))
    if code:
        raise typer.Exit(code)


def _verdict(findings: "list[Finding]", code: int) -> str:
    checked = any(f.group == "bundle" for f in findings)
    if code == 0:
        start = "bundle on " if checked else "engine "
        runs = [f.subject.removeprefix(start) for f in findings if f.subject.startswith(start) and f.status == "ok"]
        return f"usable: {'the bundle runs' if checked else 'bundles run'} on {', '.join(runs)}"
    if broken := [f.subject for f in findings if f.status == "problem"]:
        return f"broken: {', '.join(broken)}"
    return f"nothing is broken, but no engine can run{' the bundle' if checked else ''} here"

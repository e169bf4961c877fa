"""One line of the report, and what all of them come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "absent", "warning", "problem"]
Group = Literal["machine", "packages", "engines", "bundle"]

_BROKEN, _NO_ENGINE = 1, 3


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: part of the report.
        subject: what was looked at; no two findings share it.
        status: `ok`; `absent`, which breaks nothing; `warning`, which runs and not as it could; `problem`, broken.
        text: how it stands.
        fix: the command or the step that mends it; empty where nothing is to be done.
    """

    group: Group
    subject: str
    status: Status
    text: str
    fix: str = ""


def can_run(findings: Sequence[Finding]) -> bool:
    """Whether some engine works and, where a bundle was checked, runs it."""
    on_bundle = [f for f in findings if f.group == "bundle"]
    engines = [f for f in on_bundle or findings if f.subject.startswith(("bundle on ", "engine "))]
    return any(f.status == "ok" for f in engines)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 usable; 1 something is broken; 3 nothing is, but no engine can run (the bundle)."""
    if any(f.status == "problem" for f in findings):
        return _BROKEN
    return 0 if can_run(findings) else _NO_ENGINE

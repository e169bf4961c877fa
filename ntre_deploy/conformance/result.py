"""What came of a kit, case by case."""

import math
from dataclasses import dataclass
from typing import Any

FORMAT = "ntre-conformance-result"
VERSION = 1


@dataclass(frozen=True)
class StepResult:
    """A step: its measure (None where there is nothing to compare) and the largest that passes."""

    name: str
    measured: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the runtime is near enough."""
        # written so that NaN fails
        return self.measured is not None and self.measured <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN and infinity, which JSON lacks, are null."""
        finite = self.measured is not None and math.isfinite(self.measured)
        return {
            "name": self.name,
            "measured": self.measured if finite else None,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class CaseResult:
    """A case; `skipped` is the need that the runtime does not meet, and `message` that of the error that was found."""

    name: str
    kind: str
    steps: tuple[StepResult, ...]
    skipped: str | None = None
    message: str | None = None

    @property
    def passed(self) -> bool:
        """Whether all of its steps have."""
        return self.skipped is not None or (bool(self.steps) and all(step.passed for step in self.steps))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "passed": self.passed,
            "skipped": self.skipped,
            "steps": [step.to_json() for step in self.steps],
            "message": self.message,
        }


@dataclass(frozen=True)
class KitResult:
    """All cases; `runtime` has `name`, `version`, `engine` and `precision`."""

    model: str
    sha256: str
    runtime: dict[str, str]
    cases: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the runtime conforms."""
        return all(case.passed for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """The report that docs/conformance.md describes, as JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kit": {"model": self.model, "sha256": self.sha256},
            "runtime": self.runtime,
            "passed": self.passed,
            "cases": [case.to_json() for case in self.cases],
        }

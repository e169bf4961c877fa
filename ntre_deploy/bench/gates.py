"""Gates: limits that every engine of a run must keep, so that a deployment pipeline can stop a bad export."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntre_deploy.bench.baseline import Baseline
from ntre_deploy.errors import InputError

# percent by which an engine may be slower than in the baseline: runs on a quiet machine differ by less
MAX_SLOWDOWN = 10.0
# points of mIoU that it may lose against the baseline where --max-miou-drop does not say
_BASELINE_DROP = 0.1


@dataclass(frozen=True)
class Gates:
    """Limits for engines; None asks for nothing.  PyTorch's own rows are not judged.

    Attributes:
        max_miou_drop: points of mIoU (0 to 100) that an engine may be below PyTorch.
        min_pixel_agreement: percent of pixels that must equal PyTorch's.
        max_p50, max_p99: milliseconds from image to label map.
        min_speedup: against the full network in PyTorch on the engine's device, by the medians.
        against: an earlier run.
        max_slowdown: percent by which an engine may be slower than in it.

    Raises:
        InputError: a limit outside its range.
    """

    max_miou_drop: float | None = None
    min_pixel_agreement: float | None = None
    max_p50: float | None = None
    max_p99: float | None = None
    min_speedup: float | None = None
    against: Baseline | None = None
    max_slowdown: float | None = None

    def __post_init__(self) -> None:
        # 0.999 would pass everything as a percentage
        if self.min_pixel_agreement is not None and not 1 < self.min_pixel_agreement <= 100:
            raise InputError(
                f"--min-pixel-agreement {self.min_pixel_agreement:g} cannot be used: it is a percentage, such as 99.9."
            )
        if self.max_miou_drop is not None and not 0 <= self.max_miou_drop <= 100:
            raise InputError(
                f"--max-miou-drop {self.max_miou_drop:g} cannot be used: it is in points of mIoU, such as 0.5."
            )
        for name in ("max_p50", "max_p99", "min_speedup"):
            value = getattr(self, name)
            # written so that NaN fails
            if value is not None and not 0 < value < float("inf"):
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option} {value:g} cannot be used; give a number above 0.")
        if self.max_slowdown is not None and not 0 <= self.max_slowdown < float("inf"):
            raise InputError(f"--max-slowdown {self.max_slowdown:g} cannot be used; give percent from 0 on.")
        if self.max_slowdown is not None and self.against is None:
            raise InputError("--max-slowdown is for a comparison with an earlier run; add --against BASELINE.json.")

    @property
    def asked(self) -> bool:
        """Whether there is any limit."""
        return self != Gates()


def check_gates(gates: Gates, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every limit for every engine, as JSON values: gate, system, figure, found, limit, passed and a text.

    A figure that is not finite passes nothing.  An engine of the baseline that is not among the systems fails.
    """
    checks: list[dict[str, Any]] = []
    engines = [system for system in report["systems"] if system["kind"] == "engine"]
    for system in engines:
        checks += _check_engine(gates, report, system)
    if gates.against is not None:
        there = {_key(system) for system in engines}
        for bundle, name, precision in gates.against.engines:
            if (bundle, name, precision) not in there:
                told = f"{bundle}: {name} {precision}"
                text = f"{told} is in {gates.against.path} and did not run here (--against)"
                checks.append(_check("against", told, "presence", None, None, False, text))
    return checks


def failures(checks: list[dict[str, Any]]) -> str:
    """One line about all gates that failed; empty where all passed."""
    failed = [check["text"] for check in checks if not check["passed"]]
    if not failed:
        return ""
    return f"{len(failed)} of {len(checks)} gates failed: {'; '.join(failed)}."


def _check_engine(gates: Gates, report: Mapping[str, Any], system: Mapping[str, Any]) -> list[dict[str, Any]]:
    name, latency, parity = system["label"], system["latency_ms"]["total"], system["parity"]
    checks = []

    def judge(gate: str, figure: str, found: float, limit: float, text: str, most: bool, told: str = "") -> None:
        passed = found <= limit if most else found >= limit
        bound = "at most" if most else "at least"
        option = told or f"--{gate.replace('_', '-')}"
        shown = text.format(found if round(found, 2) else 0.0)  # not "-0.00"
        line = f"{name}: {figure} {shown}, {bound} {text.format(limit)} ({option})"
        checks.append(_check(gate, name, figure, found, limit, passed, line))

    accuracy_asked = gates.max_miou_drop is not None or gates.min_pixel_agreement is not None
    if not parity["finite"] and (accuracy_asked or gates.against is not None):
        # its masks may look right by chance: NaN is never above 0
        text = f"{name}: logits hold NaN or infinity"
        checks.append(_check("finite", name, "logits", None, None, False, text))
    if gates.max_miou_drop is not None:
        judge("max_miou_drop", "mIoU drop", 100 * parity["miou_drop"], gates.max_miou_drop, "{:.2f}", True)
    if gates.min_pixel_agreement is not None:
        found = 100 * parity["pixel_agreement"]
        judge("min_pixel_agreement", "equal pixels", found, gates.min_pixel_agreement, "{:.4f} %", False)
    if gates.max_p50 is not None:
        judge("max_p50", "p50", latency["p50"], gates.max_p50, "{:.2f} ms", True)
    if gates.max_p99 is not None:
        judge("max_p99", "p99", latency["p99"], gates.max_p99, "{:.2f} ms", True)

    def judge_speedup(gate: str, limit: float | None, told: str) -> None:
        if system["speedup"] is None or limit is None:
            where = "here" if system["speedup"] is None else "in that run"
            text = f"{name}: no PyTorch on its device {where}, so no speed-up ({told})"
            checks.append(_check(gate, name, "speed-up", system["speedup"], limit, False, text))
        else:
            judge(gate, "speed-up", system["speedup"], limit, "{:.2f} x", False, told)

    if gates.min_speedup is not None:
        judge_speedup("min_speedup", gates.min_speedup, "--min-speedup")
    earlier = None if gates.against is None else gates.against.engines.get(_key(system))
    if gates.against is None or earlier is None:
        return checks
    slack = 1 + (MAX_SLOWDOWN if gates.max_slowdown is None else gates.max_slowdown) / 100
    environment = report["environment"]
    if gates.against.machine == (environment["cpu"], environment["threads"]):
        judge("against", "p50", latency["p50"], earlier.p50 * slack, "{:.2f} ms", True, "--against, same machine")
    else:
        limit = None if earlier.speedup is None else earlier.speedup / slack
        judge_speedup("against", limit, "--against, another machine")
    allowed = _BASELINE_DROP if gates.max_miou_drop is None else gates.max_miou_drop
    least = 100 * earlier.miou - allowed
    judge("against", "mIoU", 100 * system["accuracy"]["miou"], least, "{:.2f}", False, "--against")
    return checks


def _key(system: Mapping[str, Any]) -> tuple[str, str, str]:
    return system["bundle"], system["name"], system["precision"]


def _check(
    gate: str, system: str, figure: str, found: float | None, limit: float | None, passed: bool, text: str
) -> dict[str, Any]:
    return {
        "gate": gate,
        "system": system,
        "figure": figure,
        "found": found,
        "limit": limit,
        "passed": passed,
        "text": text,
    }

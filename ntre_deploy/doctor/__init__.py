"""What this machine can run, and why not: every check really tries what it reports.

Packages and drivers are tried in processes of their own (`probe`), so that one which crashes or hangs is a line of the
report and not its end; this process needs none of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ntre_deploy.doctor.findings import Finding, can_run, exit_code
from ntre_deploy.doctor.gpu import jetpack
from ntre_deploy.doctor.machine import machine
from ntre_deploy.doctor.packages import conflicts, packages
from ntre_deploy.doctor.probe import Probe, run_probes

# seconds; a probe that takes longer hangs
_PATIENCE = 20.0
# the self-test of a large network on a small processor
_BUNDLE_PATIENCE = 300.0

# an engine's own check only sees whether its package could run; these say whether it does
_PROOFS = {
    "engine onnx-cuda": "CUDAExecutionProvider",
    "engine onnx-cpu": "CPUExecutionProvider",
    "engine openvino": "openvino CPU",
}

__all__ = ["Finding", "can_run", "diagnose", "exit_code"]


def diagnose(bundle: Path | None = None, patience: float = _PATIENCE, *, trusted: Sequence[Path] = ()) -> list[Finding]:
    """All findings, in the order in which a person reads them.

    Args:
        bundle: is checked against this machine too: its files are hashed, and its self-test runs on every engine.
        patience: seconds that a probe may take.
        trusted: files of public keys, by one of which the bundle must be signed; none demands nothing.
    """
    probes = [Probe(name, seconds=patience) for name in ("gpu", "base", "onnxruntime", "openvino", "tensorrt")]
    probes.append(Probe("engines", seconds=patience))
    if bundle is not None:
        probes.append(Probe("bundle", (str(bundle), *map(str, trusted)), max(patience, _BUNDLE_PATIENCE)))
    found = run_probes(probes)
    gpu = any(f.status == "ok" for f in found["gpu"])
    report = [*machine(), *jetpack(), *found["gpu"], *found["base"], *packages(gpu), *conflicts(gpu)]
    for name in ("onnxruntime", "openvino", "tensorrt", "engines", "bundle"):
        report += found.get(name, [])
    report = _proven(report)
    order = ("machine", "packages", "engines", "bundle")
    return sorted(report, key=lambda finding: order.index(finding.group))


def _proven(report: list[Finding]) -> list[Finding]:
    """The report with engines that are there but did not run the small graph as absent."""
    failed = {f.subject: f for f in report if f.status != "ok"}
    return [
        replace(f, status="absent", text=f"{proof} does not run a graph", fix=failed[proof].fix)
        if f.status == "ok" and (proof := _PROOFS.get(f.subject, "")) in failed
        else f
        for f in report
    ]

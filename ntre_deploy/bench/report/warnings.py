"""What a reader of a report has to know before trusting its figures."""

from collections.abc import Mapping
from typing import Any

from ntre_deploy.bench.latency import drift

# above this coefficient of variation, a latency is not stable enough to be compared closely
MAX_COV = 0.025
# below this number of samples, high percentiles are the maximum by another name
MIN_SAMPLES = 30
# a system whose last third takes so much longer than its first was slowed down on the way
MAX_DRIFT = 1.1
# processors that others may keep busy on a quiet machine
MAX_OTHER_CORES = 0.25
# share of compute from which on the way to the device and back is what a query waits for
_TRANSFER_BOUND = 0.5


def find_warnings(report: Mapping[str, Any]) -> list[str]:
    """All warnings of a report, those about results before those about times."""
    warnings = []
    for bundle in report["bundles"]:
        if bundle["head"] == "untrained":
            warnings.append(f"the head of {bundle['name']} is untrained: its mIoU means nothing, parity and latency do")
    for system in report["systems"]:
        warnings += _of_system(system)
    covs = {system["label"]: system["latency_ms"]["total"]["cov"] for system in report["systems"]}
    if varying := [f"{name} {cov:.0%}" for name, cov in covs.items() if cov > MAX_COV]:
        warnings.append(
            f"times vary (CoV; up to {MAX_COV:.1%} is steady), as on a shared machine: {', '.join(varying)}"
        )
    drifts = {s["label"]: drift(s["samples_ms"]) for s in report["systems"] if len(s["samples_ms"]) >= MIN_SAMPLES}
    if slower := [f"{name} by {factor - 1:.0%}" for name, factor in drifts.items() if factor > MAX_DRIFT]:
        warnings.append(f"slower at the end of the run (throttling, or other load): {', '.join(slower)}")
    n = min(system["latency_ms"]["total"]["n"] for system in report["systems"])
    if n < MIN_SAMPLES:
        warnings.append(f"{n} samples of some system; p99 needs {MIN_SAMPLES} or more, by --seconds or --rounds")
    return warnings + _of_machine(report["environment"], report["conditions"])


def _of_system(system: Mapping[str, Any]) -> list[str]:
    name, latency, found = system["label"], system["latency_ms"], []
    if not system["parity"]["finite"]:
        found.append(f"{name} gave NaN or infinity: do not use it")
    transfers = sum(latency[part]["p50"] for part in ("h2d", "d2h") if part in latency)
    if transfers > _TRANSFER_BOUND * latency["compute"]["p50"]:
        found.append(f"{name} is transfer-bound: {transfers:.2f} ms on the way to the device and back")
    if system["footprint_missing"]:
        found.append(f"{name}: load time and memory were not measured: {system['footprint_missing']}")
    return found


def _of_machine(environment: Mapping[str, Any], conditions: Mapping[str, Any] | None) -> list[str]:
    found = []
    load, cores, threads = environment.get("load_before"), environment.get("cores"), environment.get("threads")
    if load is not None and cores is not None and load + (threads or 1) > cores + 0.5:
        found.append(f"the machine was busy (load {load:.1f} on {cores} cores) before the run")
    if conditions is None:
        return found
    if conditions["other_cores"] > MAX_OTHER_CORES:
        found.append(f"other processes kept {conditions['other_cores']:.1f} of {cores} cores busy during the run")
    if conditions["stolen_cores"] > MAX_OTHER_CORES:
        found.append(f"the host of this virtual machine took {conditions['stolen_cores']:.1f} cores away")
    if conditions["thermal_events"]:
        found.append(f"the processor was throttled for its heat ({conditions['thermal_events']} events)")
    if conditions["quota_microseconds"]:
        held = conditions["quota_microseconds"] / 1e6
        found.append(f"the container's CPU quota held the run back for {held:.2f} s; latencies include it")
    if conditions["gpu_slowdowns"]:
        found.append(f"the GPU was slowed down: {', '.join(conditions['gpu_slowdowns'])}")
    return found

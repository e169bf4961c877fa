"""Tries what may crash or hang in a process of its own.

The child writes a line before each step and one for each finding.  If it dies or is stopped, the last line says in
which step; that becomes a finding, and the child is started again without the step.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from ntre_deploy.doctor.findings import Finding, Group
from ntre_deploy.processes import module_command

# name of a probe -> module and function that yields its steps
_PROBES = {
    "gpu": ("ntre_deploy.doctor.gpu", "gpu_steps"),
    "base": ("ntre_deploy.doctor.packages", "base_steps"),
    "onnxruntime": ("ntre_deploy.doctor.engines", "onnxruntime_steps"),
    "openvino": ("ntre_deploy.doctor.engines", "openvino_steps"),
    "tensorrt": ("ntre_deploy.doctor.engines", "tensorrt_steps"),
    "engines": ("ntre_deploy.doctor.engines", "engine_steps"),
    "bundle": ("ntre_deploy.doctor.bundle", "bundle_steps"),
}
# a package that brings down every step would otherwise be started for each
_MOST_STARTS = 8


@dataclass(frozen=True)
class Step:
    """Something to try: what it finds, and what mends it when it crashes."""

    group: Group
    subject: str
    run: Callable[[], Iterable[Finding]]
    fix: str = ""


@dataclass
class Probe:
    """One of `_PROBES` with its arguments, and how many seconds it may take."""

    name: str
    arguments: tuple[str, ...] = ()
    seconds: float = 20.0


@dataclass
class _Child:
    probe: Probe
    process: "subprocess.Popen[str]"
    out: IO[str]
    err: IO[str]
    began: float
    crashed: list[Finding] = field(default_factory=list)


def run_probes(probes: Sequence[Probe]) -> dict[str, list[Finding]]:
    """Run probes side by side; findings by the name of the probe."""
    running = [_start(probe) for probe in probes]
    found: dict[str, list[Finding]] = {}
    try:
        while running:
            child = running.pop(0)
            findings, again = _finish(child)
            if again is not None:
                running.append(again)
            else:
                found[child.probe.name] = findings
    finally:
        for child in running:
            child.process.kill()
            child.process.wait()
    return found


def _start(probe: Probe, crashed: Sequence[Finding] = ()) -> _Child:
    # files and not pipes, which would have to be read while the child runs; `_finish` closes them
    out, err = (tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in range(2))  # noqa: SIM115
    skipped = json.dumps([finding.subject for finding in crashed])
    command = module_command("ntre_deploy.doctor.probe", probe.name, skipped, *probe.arguments)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True)
    return _Child(probe, process, out, err, time.monotonic(), list(crashed))


def _finish(child: _Child) -> tuple[list[Finding], _Child | None]:
    """Findings of a child that has ended, and the one that goes on in its place."""
    probe, hangs = child.probe, False
    try:
        code = child.process.wait(max(child.began + probe.seconds - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        hangs = True
        child.process.kill()
        code = child.process.wait()
    with child.out, child.err:
        lines, said = _read(child.out), _read(child.err)
    findings, trying = _told(lines)
    if code == 0 and not hangs:
        return findings + child.crashed, None
    subject = trying or Step("engines", probe.name, list)
    why = f"gives no answer within {probe.seconds:g} s" if hangs else f"crashes ({_ending(code)}) when it is tried"
    last = f": {said[-1][:200]}" if said and not hangs else ""
    crash = Finding(subject.group, subject.subject, "problem", f"{why}{last}", subject.fix)
    crashed = [*child.crashed, crash]
    if trying is None or len(crashed) >= _MOST_STARTS:
        return findings + crashed, None
    return [], _start(probe, crashed)


def _read(file: IO[str]) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file if line.strip()]


def _told(lines: Sequence[str]) -> tuple[list[Finding], Step | None]:
    findings, trying = [], None
    for line in lines:
        try:
            content: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off in the middle
            continue
        if "status" in content:
            findings.append(Finding(**content))
        else:
            trying = Step(content["group"], content["subject"], list, content["fix"])
    return findings, trying


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _steps(name: str, arguments: Sequence[str]) -> Iterator[Step]:
    module, function = _PROBES[name]
    steps: Iterator[Step] = getattr(importlib.import_module(module), function)(*arguments)
    return steps


def _main(name: str, skipped: str, *arguments: str) -> None:
    # libraries write on stdout as they like
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    skip = json.loads(skipped)
    for step in _steps(name, arguments):
        if step.subject in skip:
            continue
        print(json.dumps({"group": step.group, "subject": step.subject, "fix": step.fix}), file=out, flush=True)
        try:
            for finding in step.run():
                print(json.dumps(asdict(finding)), file=out, flush=True)
        # broken installations fail in ways of their own
        except Exception as error:
            text = f"fails: {first_line(error)}"
            finding = Finding(step.group, step.subject, "problem", text, step.fix)
            print(json.dumps(asdict(finding)), file=out, flush=True)
    # what a library does when it is unloaded is nothing that `ntre` waits for
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])

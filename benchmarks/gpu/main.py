"""Runs the stages one after the other, each in a process of its own and within what is left of the time.

Exports are work of a CPU.  To keep them off a GPU that is lent by the minute, run the stages `export:resnet50` and
`demo` with `--device cpu` elsewhere, ship the bundles that they leave in OUT, and name that folder with `--prepared`:
only plans are built on the GPU then.

A stage that crashes, hangs or runs out of memory costs its own figures and nothing else; what it printed is kept.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# in the order of their worth, with the seconds that each may take at most; a stage is what one process measures
STAGES = {
    "machine": 40.0,
    "tests": 60.0,
    "kernels": 100.0,
    "torch:resnet50": 90.0,
    "whole:resnet50": 30.0,
    "compile-cached:resnet50": 100.0,
    "autotune-cached:resnet50": 100.0,
    "export:resnet50": 90.0,
    "engines:resnet50": 60.0,
    "demo": 60.0,
    "compile-full:resnet50": 100.0,
    "inductor:resnet50": 100.0,
    "export:resnet101": 90.0,
    "engines:resnet101": 60.0,
    "torch:resnet101": 90.0,
}
# of a stage that has none of its own, and seconds below which no stage is begun
_MOST, _LEAST = 100.0, 15.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_out"))
    parser.add_argument("--budget", type=float, default=470.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda", help="cpu tries the script out where there is no GPU")
    parser.add_argument("--quick", action="store_true", help="a tiny network and few samples")
    parser.add_argument("--most", type=float, help="seconds for one stage, in place of each one's own")
    parser.add_argument("--prepared", type=Path, help="OUT of an earlier run elsewhere, whose bundles are taken")
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.budget
    report: dict[str, Any] = {"schema": 1, "device": options.device, "quick": options.quick, "stages": {}}
    for stage in options.stages.split(","):
        report["stages"][stage] = _run(stage, options, end - time.monotonic())
        (options.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
        print(f"{stage}: {report['stages'][stage]['status']} in {report['stages'][stage]['seconds']:.0f} s", flush=True)
    return 0 if any(stage["status"] == "done" for stage in report["stages"].values()) else 1


def _run(stage: str, options: argparse.Namespace, left: float) -> dict[str, Any]:
    if left < _LEAST:
        return {"status": "no time left", "seconds": 0.0}
    name = stage.replace(":", "-")
    result, log = options.out / f"{name}.json", options.out / f"{name}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-P", str(HERE / "stages.py"), stage, str(result), "--work", str(options.out)]
    command += ["--device", options.device] + (["--quick"] if options.quick else [])
    if options.prepared is not None:
        command += ["--prepared", str(options.prepared.resolve())]
    # what one stage has compiled, the next one finds
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str((options.out / "inductor").resolve())}
    began = time.monotonic()
    limit = min(left, options.most or STAGES.get(stage, _MOST))
    with log.open("w") as file:
        # a group of its own: what a stage has started must not keep the GPU
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=env)
        try:
            code = process.wait(limit)
            status = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found: dict[str, Any] = {"status": status, "seconds": time.monotonic() - began}
    # a stage writes after each figure, so what was measured before it failed counts
    if result.is_file():
        found["result"] = json.loads(result.read_text())
    if status != "done":
        found["log"] = log.read_text()[-2000:]
    return found


if __name__ == "__main__":
    raise SystemExit(main())

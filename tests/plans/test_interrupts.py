"""Ctrl-C at any moment of a build with the real TensorRT for RTX, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from ntre_deploy.runtime.engines.tensorrt import api

pytestmark = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")

MOMENTS = 10
CODE = """
import os, signal, sys, threading
from pathlib import Path
from ntre_deploy.plans.builder import build
from ntre_deploy.plans.options import TensorRtOptions, profiles
from ntre_deploy.runtime.engines.tensorrt import api

content, moments = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
library, options = api.load("trt-rtx"), TensorRtOptions()
shapes = profiles("trt-rtx", "query", 65, options, (16, 512), 81)

def run(progress=lambda step: None):
    build(library, content, shapes, ("8.6",), options, what="query", progress=progress)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def stopped(progress=lambda step: None):
    try:
        run(progress)
        print("went on to the end")
    except KeyboardInterrupt:
        print("stopped")

signal.signal(signal.SIGINT, signal.default_int_handler)
steps = []
run(steps.append)
# soon after the beginning, from another thread
for delay in (0.02, 0.05, 0.1):
    timer = threading.Timer(delay, interrupt)
    timer.start()
    stopped()
    timer.join()
# and spread over the steps that the library tells, inside its own call
for moment in range(3, moments):
    told = []
    def progress(step):
        told.append(step)
        if len(told) == 1 + len(steps) * (moment - 3) // (moments - 3):
            interrupt()
    stopped(progress)
run()
print("builds again")
"""


def test_every_interrupt_stops_the_build(exported: Path) -> None:
    command = [sys.executable, "-P", "-c", CODE, str(exported / "query.fp16.onnx"), str(MOMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["stopped"] * MOMENTS + ["builds again"]

"""Ctrl-C at any moment of a build with the real TensorRT for RTX, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from ntre_deploy.runtime.engines.tensorrt import api

pytestmark = pytest.mark.skipif(api.unavailable("trt-rtx") is not None, reason=api.unavailable("trt-rtx") or "")

MOMENTS = 10
CODE = """
import os, signal, sys, threading, time
from pathlib import Path
from ntre_deploy.plans.builder import build
from ntre_deploy.plans.options import TensorRtOptions, profiles
from ntre_deploy.runtime.engines.tensorrt import api

content, moments = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
library, options = api.load("trt-rtx"), TensorRtOptions()
shapes = profiles("trt-rtx", "query", 65, options, (16, 512), 81)

def run():
    build(library, content, shapes, ("8.6",), options, what="query")

signal.signal(signal.SIGINT, signal.default_int_handler)
run()
began = time.monotonic()
run()
whole = time.monotonic() - began
for moment in range(moments):
    # the last one leaves a fifth of the time, for a build that is quicker than that one was
    delay = 0.02 + whole * 0.8 * moment / moments
    try:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        run()
        print("went on to the end", delay, whole)
    except KeyboardInterrupt:
        print("stopped")
    timer.join()
run()
print("builds again")
"""


def test_every_interrupt_stops_the_build(exported: Path) -> None:
    command = [sys.executable, "-P", "-c", CODE, str(exported / "query.fp16.onnx"), str(MOMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["stopped"] * MOMENTS + ["builds again"]

"""One side of the benchmark in a process of its own, so that its loading and its memory are its own.

    python side.py python|engine BUNDLE PRECISION THREADS MEMORY IMAGE WIDTH HEIGHT

`python` is the whole Python runtime, `engine` its query graph alone on an image that is prepared already.  The protocol
is that of `runtimes/cpp/bench/bench.cpp`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import prepare_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory


def main() -> None:
    """Load, say so, and answer."""
    kind, bundle, precision, threads, memory_path, image_path, width, height = sys.argv[1:]
    segmenter = Segmenter.load(bundle, "openvino", precision=precision, threads=int(threads))
    memory = SupportMemory.load(memory_path)
    image = np.frombuffer(Path(image_path).read_bytes(), np.uint8).reshape(int(height), int(width), 3)
    pixels, _ = prepare_image(image, segmenter.spec)
    logits, box = segmenter.logits(image, memory)
    parts: dict[str, Callable[[], object]] = {"whole": lambda: segmenter.query(pixels, memory)}
    if kind == "python":
        parts = {
            "whole": lambda: segmenter.segment(image, memory),
            "before": lambda: prepare_image(image, segmenter.spec),
            "after": lambda: label_map(logits, box),
        }
    print("ready", flush=True)
    for line in sys.stdin:
        part, rest = line.split()
        if part == "labels":
            Path(rest).write_bytes(segmenter.segment(image, memory).tobytes())
            print([], flush=True)
        else:
            print(_timed(parts[part], int(rest)), flush=True)


def _timed(call: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - begun))
    return found


if __name__ == "__main__":
    main()

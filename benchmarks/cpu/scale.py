"""How cost grows with classes, shots, threads and the batch, with a plot beside the JSON file."""

import argparse
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Setting, show, write
from numpy.typing import NDArray

from ntre_deploy.bench.latency import summarise, timed
from ntre_deploy.runtime.engines import open_engine
from ntre_deploy.runtime.letterbox import prepare_image
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory

Float = NDArray[np.float32]
Call = Callable[[], object]

CLASSES, SHOTS, BATCHES, THREADS = (1, 5, 20), (1, 5), (1, 2, 4), (1, 2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this command alone."""
    parser.add_argument("--engine", default="auto", help="as of `ntre segment` (default: auto)")
    parser.add_argument("--precision", help="of the engine; its best by default")
    parser.add_argument("--plot", type=Path, help="image to draw (default: beside --out)")


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Measure, write and draw."""
    bundle = setting.bundle
    engine = open_engine(bundle, args.engine, args.precision, setting.threads).engine
    segmenter = Segmenter(engine, bundle.manifest.input, bundle.manifest.model)
    memories, query = _memories(setting, segmenter)
    pixels, _ = prepare_image(query, segmenter.spec)
    ways: dict[str, Call] = {}
    for k in SHOTS:
        for n in CLASSES:
            state = segmenter.stack([_first(memories[i % len(memories)], k) for i in range(n)])
            ways[f"{n} classes {k} shots"] = partial(engine.query, pixels[None], state)
    one = segmenter.stack(_first(memories[0], 1))
    batches: dict[str, Call] = {
        f"batch of {b}": partial(engine.query, np.repeat(pixels[None], b, axis=0), one) for b in BATCHES
    }
    # apart, because OpenVINO keeps few compiled graphs
    samples = interleaved(ways, setting.rounds) | interleaved(batches, setting.rounds)
    latency = {name: summarise(values) for name, values in samples.items()}
    several = _throughput(setting, args, query, _first(memories[0], 1))
    found = {"engine": engine.name, "precision": engine.precision, "latency_ms": latency, "throughput": several}
    write(args.out, setting, found)
    _draw(args.plot or args.out.with_suffix(".svg"), f"{engine.name} {engine.precision}", latency)
    base = latency["1 classes 1 shots"]["p50"]
    lines = [[name, f"{s['p50']:.1f}", f"{s['p50'] / base:.2f}", f"{s['cov']:.1%}"] for name, s in latency.items()]
    show(f"{engine.name} {engine.precision}", ["case", "ms", "ratio", "CoV"], lines)
    for name, value in several.items():
        print(f"{name}: {value:.2f} queries a second")


def interleaved(cases: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every case, one after the other in each round, beginning with another one every time."""
    names = list(cases)
    for call in cases.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples[name].append(timed(cases[name])[1])
    return samples


def _memories(setting: Setting, segmenter: Segmenter) -> tuple[list[SupportMemory], NDArray[np.uint8]]:
    """Memories of as many classes as can be had, of the most shots, and a query image."""
    most = max(SHOTS)
    found: dict[int, SupportMemory] = {}
    episodes = setting.episodes(most).episodes
    for e in episodes:
        if e.class_id not in found:
            shots = [(setting.dataset.image(i), setting.dataset.mask(i, e.class_id)) for i in e.supports]
            found[e.class_id] = segmenter.encode_episode(shots, e.class_name)
    return list(found.values()), setting.dataset.image(episodes[0].query)


def _first(memory: SupportMemory, shots: int) -> SupportMemory:
    """The memory with its first shots only; the prototype does not matter for the cost."""
    return SupportMemory(memory.name, memory.prototype, memory.keys[:shots], memory.model)


def _throughput(
    setting: Setting, args: argparse.Namespace, query: NDArray[np.uint8], memory: SupportMemory
) -> dict[str, float]:
    """Queries a second from image to label map, with one segmenter on each of several threads."""
    found = {}
    for number in THREADS:
        hint = "throughput" if number > 1 else "latency"
        segmenter = Segmenter.load(
            setting.bundle.folder,
            args.engine,
            precision=args.precision,
            threads=setting.threads,
            hint=hint,
            self_test=False,
        )
        clones = [segmenter, *(segmenter.clone() for _ in range(number - 1))]
        for clone in clones:
            clone.segment(query, memory)
        each = max(4, 2 * setting.rounds // number)
        threads = [threading.Thread(target=_repeat, args=(clone, query, memory, each)) for clone in clones]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found[f"{number} segmenter{'s' if number > 1 else ''} ({hint})"] = number * each / (time.perf_counter() - start)
    return found


def _repeat(segmenter: Segmenter, query: NDArray[np.uint8], memory: SupportMemory, times: int) -> None:
    for _ in range(times):
        segmenter.segment(query, memory)


def _draw(path: Path, title: str, latency: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for k in SHOTS:
        left.plot(CLASSES, [latency[f"{n} classes {k} shots"]["p50"] for n in CLASSES], marker="o", label=f"{k}-shot")
    base = latency["1 classes 1 shots"]["p50"]
    left.plot(CLASSES, [base * n for n in CLASSES], ":", color="gray", label="N queries of one class")
    left.set(xlabel="classes N", ylabel="ms a query", title=f"{title}: one image, N classes", ylim=(0, None))
    left.legend()
    right.plot(BATCHES, [latency[f"batch of {b}"]["p50"] / b for b in BATCHES], marker="o")
    right.set(xlabel="images in a batch", ylabel="ms an image", title="batches of queries", ylim=(0, None))
    figure.savefig(path)
    plt.close(figure)

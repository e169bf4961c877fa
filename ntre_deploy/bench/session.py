"""A whole bench: latency and masks, then throughput, then load time and memory, and the report of all of it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntre_deploy.bench.footprint import Footprint, Order, footprint
from ntre_deploy.bench.groups import Opened
from ntre_deploy.bench.latency import WARM_UP
from ntre_deploy.bench.machine import Watch
from ntre_deploy.bench.report import Run, build_report
from ntre_deploy.bench.report.warnings import MIN_SAMPLES
from ntre_deploy.bench.runner import Picture, Result, overhead, run_groups
from ntre_deploy.bench.systems import Cached, System
from ntre_deploy.bench.throughput import Rate, measure_throughput
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.data.ways import WaysEpisode, WaysSet

# (number of steps, what they are) -> a block whose function counts one step
Counting = Callable[[int, str], AbstractContextManager[Callable[[], None]]]

_ROUND_SECONDS = 0.5
_ROUNDS = 2
# queries that the throughput runs in turn
_QUERIES = 8


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: of latency that each system gets, at least.
        rounds: timings of each query by each system, at least.
        samples: of each system, at least.
        threads: CPU threads of each system.
        workers: largest number of threads of the throughput; 0 leaves it out.
        memory: whether load time and memory are measured, each in a new process.
        pictures: episodes to be kept, the worst.
        calibrate: make the margins of N classes comparable by their supports.
    """

    seconds: float = 3.0
    rounds: int = 1
    samples: int = MIN_SAMPLES
    threads: int = 2
    workers: int = 2
    memory: bool = True
    pictures: int = 6
    calibrate: bool = True


def measure(
    opened: Opened,
    dataset: Dataset,
    episodes: EpisodeSet | WaysSet,
    plan: Plan,
    *,
    environment: dict[str, Any],
    command: str,
    counting: Counting,
    notes: Sequence[str] = (),
) -> tuple[dict[str, Any], list[Picture]]:
    """Measure all systems of the opened bundles.

    Args:
        environment: as it was before the engines were opened.
        command: that gives these figures again.
        counting: shows progress.
        notes: warnings that are known before anything is measured.

    Returns:
        The report (no gate is checked yet) and the worst episodes.

    Raises:
        InputError: an image or mask cannot be read.
        EngineError: an engine failed.
    """
    systems: list[System] = [system for group in opened.groups for system in group.systems]
    own = overhead()
    watch = Watch().start()
    with counting(len(episodes.episodes), "latency and masks") as advance:
        results, pictures = run_groups(
            opened.groups,
            dataset,
            episodes,
            rounds=plan.rounds,
            seconds=plan.seconds,
            least=plan.samples if plan.seconds else 0,
            pictures=plan.pictures,
            calibrate=plan.calibrate,
            progress=advance,
        )
    conditions = watch.stop()
    run = Run(
        rates=_throughput(systems, results, dataset, episodes, plan, counting),
        footprints=_footprints(opened, episodes, plan, counting) if plan.memory else (),
        facts=[getattr(system, "facts", None) for system in systems],
        conditions=conditions,
        protocol={
            "warm_up_seconds": WARM_UP,
            "least_seconds": plan.seconds,
            "least_samples": plan.samples if plan.seconds else 0,
            "rounds": plan.rounds,
            "harness_overhead_ms": own,
        },
        skipped=opened.skipped,
        notes=notes,
    )
    return build_report(opened.bundles, episodes, results, environment, command, run), pictures


def _throughput(
    systems: Sequence[System],
    results: Sequence[Result],
    dataset: Dataset,
    episodes: EpisodeSet | WaysSet,
    plan: Plan,
    counting: Counting,
) -> list[list[Rate] | None]:
    # a segmenter refuses logits that are not finite, and the report says so already
    able = [
        (place, system)
        for place, (system, result) in enumerate(zip(systems, results, strict=True))
        if isinstance(system, Cached) and np.isfinite(result.logits_errors).all()
    ]
    found: list[list[Rate] | None] = [None] * len(systems)
    if not plan.workers or not able:
        return found
    first = episodes.episodes[0]
    ways = first.ways if isinstance(first, WaysEpisode) else [first]
    classes = [[(dataset.image(i), dataset.mask(i, way.class_id)) for i in way.supports] for way in ways]
    queries = [dataset.image(episode.query) for episode in episodes.episodes[:_QUERIES]]
    workers = sorted({1, plan.workers})
    with counting(_ROUNDS * len(workers) * len(able), "throughput") as advance:
        rates = measure_throughput(
            [system for _, system in able],
            classes,
            queries,
            workers,
            calibrate=plan.calibrate,
            seconds=_ROUND_SECONDS,
            rounds=_ROUNDS,
            progress=advance,
        )
    for (place, _), own in zip(able, rates, strict=True):
        found[place] = own
    return found


def _footprints(
    opened: Opened, episodes: EpisodeSet | WaysSet, plan: Plan, counting: Counting
) -> list[Footprint | str]:
    orders = [
        _order(opened, system, bundle, episodes, plan.threads)
        for group in opened.groups
        for system, bundle in zip(group.systems, group.bundles, strict=True)
    ]
    found = []
    with counting(len(orders), "load time and memory") as advance:
        for order in orders:
            found.append(footprint(order))
            advance()
    return found


def _order(opened: Opened, system: System, bundle: str, episodes: EpisodeSet | WaysSet, threads: int) -> Order:
    name = bundle or next(iter(opened.bundles))
    return Order(
        bundle=str(opened.bundles[name].folder),
        engine=system.name,
        precision=system.precision,
        threads=threads,
        shots=episodes.shots,
        checkpoint=str(opened.checkpoints.get(name, "")),
        ways=episodes.ways if isinstance(episodes, WaysSet) else 1,
        trusted=tuple(map(str, opened.trusted)),
    )

"""Run every system on the same episodes, interleaved, and compare what they give."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench.latency import Samples, timed, warm_up
from ntre_deploy.bench.systems import System
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.runtime.cpu import cpu_name
from ntre_deploy.runtime.image import InputSpec, label_map, prepare_image
from ntre_deploy.runtime.segmenter import logits_error
from ntre_deploy.training.metrics import IGNORE, Score, mask_iou

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass
class Result:
    """What was measured of one system; the parity figures are against the first system.

    Attributes:
        queries: times of each query.
        supports: milliseconds of preparing the supports of each episode.
        score: accuracy against the ground truth.
        differing: share of differing pixels of each episode.
        mask_ious: IoU with the reference's mask of each episode.
        logits_errors: max |a - b| / max |b| of each episode.
    """

    name: str
    precision: str
    queries: Samples = field(default_factory=Samples)
    supports: list[float] = field(default_factory=list)
    score: Score = field(default_factory=Score)
    differing: list[float] = field(default_factory=list)
    mask_ious: list[float] = field(default_factory=list)
    logits_errors: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """One episode to look at: uint8 RGB images, uint8 masks [H, W]; `masks` has one entry per system."""

    episode: Episode
    support: Pixels
    support_mask: Pixels
    query: Pixels
    truth: Pixels
    masks: dict[str, Pixels]


def run_bench(
    systems: Sequence[System],
    spec: InputSpec,
    dataset: Dataset,
    episodes: EpisodeSet,
    *,
    rounds: int = 1,
    pictures: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[Result], list[Picture]]:
    """Measure all systems.

    Each episode is run by one system after the other, beginning with another one every time, so that what else
    happens on the machine hits all of them alike.  The first system is the reference.

    Args:
        rounds: how often each episode's query is timed by each system.
        pictures: number of episodes whose masks are kept.
        progress: called after every episode.

    Raises:
        InputError: an image or mask of the dataset cannot be read.
        EngineError: an engine failed.
    """
    results = [Result(system.name, system.precision) for system in systems]
    kept: list[Picture] = []
    for number, episode in enumerate(episodes.episodes):
        shots = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
        query, truth = dataset.image(episode.query), dataset.mask(episode.query, episode.class_id)
        states = []
        for system, result in zip(systems, results, strict=True):
            state, spent = timed(partial(system.prepare, shots))
            states.append(state)
            if number:  # the first one pays for allocations that later ones do not
                result.supports.append(spent)
        if number == 0:
            for system, state in zip(systems, states, strict=True):
                warm_up(partial(_query, system, state, query, spec, Samples()))
        outputs: list[tuple[Float, Pixels]] = [(np.empty(0, np.float32), np.empty(0, np.uint8))] * len(systems)
        for turn in range(rounds):
            for step in range(len(systems)):
                index = (step + number + turn) % len(systems)
                outputs[index] = _query(systems[index], states[index], query, spec, results[index].queries)
        for result, (logits, mask) in zip(results, outputs, strict=True):
            _compare(result, episode, logits, mask, outputs[0], truth)
        if len(kept) < pictures:
            masks = {label(r): mask for r, (_, mask) in zip(results, outputs, strict=True)}
            kept.append(Picture(episode, *shots[0], query, truth, masks))
        progress()
    return results, kept


def label(item: System | Result) -> str:
    """Name and precision, as tables and files show a system."""
    return f"{item.name} {item.precision}"


def _query(system: System, state: Any, query: Pixels, spec: InputSpec, samples: Samples) -> tuple[Float, Pixels]:
    (pixels, box), pre = timed(lambda: prepare_image(query, spec))
    logits, compute = timed(lambda: system.compute(pixels, state))
    mask, post = timed(lambda: label_map(logits, box))
    samples.add(pre, compute, post)
    return logits, mask


def _compare(
    result: Result, episode: Episode, logits: Float, mask: Pixels, reference: tuple[Float, Pixels], truth: Pixels
) -> None:
    result.score.add(episode.class_id, mask, truth)
    wanted, wanted_mask = reference
    valid = truth != IGNORE
    result.differing.append(float((mask != wanted_mask)[valid].mean()) if valid.any() else 0.0)
    result.pixels.append(int(valid.sum()))
    result.mask_ious.append(mask_iou(mask[valid], wanted_mask[valid]))
    # NaN stays NaN, and the report tells
    result.logits_errors.append(logits_error(logits, wanted))


def environment(threads: int | None) -> dict[str, Any]:
    """What the figures depend on besides the bundle; `threads` is None where they were left to the engine."""
    from ntre_deploy.versions import versions

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions(),
    }

"""Run every system on the same episodes, interleaved, and compare what they give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench.groups import Group
from ntre_deploy.bench.latency import Samples, timed, warm_up
from ntre_deploy.bench.machine import environment
from ntre_deploy.bench.pytorch import is_baseline
from ntre_deploy.bench.reference import STORED
from ntre_deploy.bench.systems import System, Ways
from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import Episode, EpisodeSet
from ntre_deploy.data.ways import WaysEpisode, WaysSet
from ntre_deploy.runtime.calibration import NEUTRAL, calibrated
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image
from ntre_deploy.runtime.masks import IGNORE, mask_iou
from ntre_deploy.runtime.segmenter import logits_error
from ntre_deploy.training.metrics import Confusion, Score
from ntre_deploy.training.ways import count_ways, read_query, read_supports

__all__ = ["Picture", "Result", "environment", "label", "overhead", "run_bench", "run_groups"]

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass
class Result:
    """What was measured of one system; the parity figures are against its reference.

    Attributes:
        bundle: whose engine it is; empty where there is one bundle.
        reference: place of the system that its masks are compared with among the results.
        device: `cpu` or `gpu`.
        against: PyTorch as the export stored it, which the parity figures are against then; it has no times.
        baseline: place of PyTorch's full network in fp32 on that device, which its times are compared with; None where
            there is none.
        queries: times of each query.
        supports: milliseconds of preparing the supports of each episode.
        score: accuracy against the ground truth.
        counts: class, and true positive, false positive, false negative and true negative pixels of each episode; of
            N-way episodes a row for each class.
        alone: the same rows of each class's mask alone; empty with one way.
        ways, confusion: N, and pixels int64 [N + 1, N + 1] over all queries (rows are the truth); None with one way.
        differing: share of differing pixels of each episode.
        mask_ious: IoU with the reference's mask of each episode.
        logits_errors: max |a - b| / max |b| of each episode; NaN where one of them holds NaN.
        pixels: that count, of each episode's query.
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
    counts: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    alone: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    ways: int = 1
    confusion: NDArray[np.int64] | None = None
    bundle: str = ""
    reference: int = 0
    device: str = "cpu"
    baseline: int | None = None
    against: "Result | None" = None

    @property
    def median(self) -> float:
        """Of the queries' milliseconds, end to end."""
        return float(np.median(self.queries.parts["total"]))


@dataclass(frozen=True)
class Picture:
    """One episode to look at: uint8 RGB images, uint8 masks [H, W].

    Attributes:
        episode: of N ways the first one's supports, under the names of all.
        masks: one entry per system, under its `label`.
        differing: share of the pixels in which each system differs from its reference.
    """

    episode: Episode
    support: Pixels
    support_mask: Pixels
    query: Pixels
    truth: Pixels
    masks: dict[str, Pixels]
    differing: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """An episode's arrays: for each way its shots, the query, and the truth; `ids` are the classes."""

    shown: Episode
    ids: tuple[int, ...]
    classes: Sequence[Sequence[tuple[Pixels, Pixels]]]
    query: Pixels
    truth: Pixels


@dataclass(frozen=True)
class _Placed:
    """A system, and what it needs to know of its group."""

    system: System
    group: Group
    reference: int

    @property
    def spec(self) -> InputSpec:
        return self.group.spec


def run_bench(
    systems: Sequence[System],
    spec: InputSpec,
    dataset: Dataset,
    episodes: EpisodeSet,
    *,
    rounds: int = 1,
    seconds: float = 0.0,
    least: int = 0,
    pictures: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[Result], list[Picture]]:
    """Measure all systems of one network; the first system is the reference.  See `run_groups`."""
    group = Group(spec, list(systems), [""] * len(systems))
    return run_groups(
        [group],
        dataset,
        episodes,
        rounds=rounds,
        seconds=seconds,
        least=least,
        pictures=pictures,
        progress=progress,
    )


def run_groups(
    groups: Sequence[Group],
    dataset: Dataset,
    episodes: EpisodeSet | WaysSet,
    *,
    rounds: int = 1,
    seconds: float = 0.0,
    least: int = 0,
    pictures: int = 0,
    calibrate: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[Result], list[Picture]]:
    """Measure all systems of all groups.

    Each episode is run by one system after the other, beginning with another one every time, so that what else
    happens on the machine hits all of them alike.  In every episode, a system takes turns until it has its share of
    `seconds` and of `least` samples; one that has them sits out.

    Args:
        rounds: how often each episode's query is timed by each system, at least.
        seconds: of measured time that each system gets, at least.
        least: samples of each system, at least.
        calibrate: make the margins of N classes comparable by their supports; with one way there is nothing to compare.
        pictures: number of episodes whose masks are kept: those in which systems differ most from their references.
        progress: called after every episode.

    Returns:
        Results in the order of the groups and their systems, and pictures, the worst first.

    Raises:
        InputError: an image or mask of the dataset cannot be read.
        EngineError: an engine failed.
    """
    placed: list[_Placed] = []
    results: list[Result] = []
    stored: list[tuple[Group, Result]] = []
    for group in groups:
        first = len(placed)
        baselines = {
            system.device: first + place
            for place, system in enumerate(group.systems)
            if is_baseline(system.name, system.precision)
        }
        against = Result(STORED, "fp32", bundle=group.bundles[0]) if group.stored else None
        stored += [(group, against)] if against is not None else []
        for system, bundle in zip(group.systems, group.bundles, strict=True):
            placed.append(_Placed(system, group, first))
            ways = episodes.ways if isinstance(episodes, WaysSet) else 1
            results.append(
                Result(
                    system.name,
                    system.precision,
                    bundle=bundle,
                    reference=first,
                    ways=ways,
                    device=system.device,
                    baseline=baselines.get(system.device),
                    against=against,
                )
            )
    worst = _Worst(pictures)
    everything: Sequence[Episode | WaysEpisode] = episodes.episodes
    for number, episode in enumerate(everything):
        task = _task(dataset, episode, number)
        query, truth = task.query, task.truth
        states = []
        for item, result in zip(placed, results, strict=True):
            state, spent = timed(partial(_prepare, item.system, episode, task, calibrate))
            states.append(state)
            if number:  # the first one pays for allocations that later ones do not
                result.supports.append(spent)
        if number == 0:
            for item, state in zip(placed, states, strict=True):
                warm_up(partial(_query, item.system, state, query, item.spec, Samples()))
        share = (number + 1) / len(episodes.episodes)
        outputs: list[tuple[Float, Pixels]] = [(np.empty(0, np.float32), np.empty(0, np.uint8))] * len(placed)
        turn = 0
        while True:
            order = [(step + number + turn) % len(placed) for step in range(len(placed))]
            due = order if turn < rounds else [i for i in order if _lacks(results[i], share, seconds, least)]
            if not due:
                break
            for index in due:
                item = placed[index]
                outputs[index] = _query(item.system, states[index], query, item.spec, results[index].queries)
            turn += 1
        for item, result, (logits, mask) in zip(placed, results, outputs, strict=True):
            if isinstance(episode, WaysEpisode):
                _count_ways(result, task, logits, mask, item.spec)
            else:
                _count(result, task, mask)
            wanted = item.group.stored[number] if item.group.stored else outputs[result.reference]
            _compare(result, logits, mask, wanted, truth)
        for group, against in stored:
            _count(against, task, group.stored[number][1])
        if worst.wants(results):
            masks = {label(against): group.stored[number][1] for group, against in stored}
            masks |= {label(r): mask for r, (_, mask) in zip(results, outputs, strict=True)}
            differing = {label(r): r.differing[-1] for r in results}
            worst.add(results, Picture(task.shown, *task.classes[0][0], query, truth, masks, differing))
        progress()
    return results, worst.pictures()


class _Worst:
    """The episodes in which systems differ most from their references; the earlier one of two that are alike."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[tuple[float, float], Picture]] = []

    def wants(self, results: Sequence[Result]) -> bool:
        return self._count > 0 and (len(self._kept) < self._count or self._rank(results) > self._kept[-1][0])

    def add(self, results: Sequence[Result], picture: Picture) -> None:
        self._kept.append((self._rank(results), picture))
        self._kept.sort(key=lambda entry: entry[0], reverse=True)  # stable
        del self._kept[self._count :]

    def pictures(self) -> list[Picture]:
        return [picture for _, picture in self._kept]

    @staticmethod
    def _rank(results: Sequence[Result]) -> tuple[float, float]:
        # where no mask differs, the episode in which the reference itself is worst tells the most
        rows = results[0].counts[-results[0].ways :]
        tp, fp, fn = (sum(row[part] for row in rows) for part in (1, 2, 3))
        return max(r.differing[-1] for r in results), (fp + fn) / max(tp + fp + fn, 1)


def _lacks(result: Result, share: float, seconds: float, least: int) -> bool:
    samples = result.queries
    return len(samples.parts["total"]) < least * share or samples.seconds < seconds * share


def label(item: System | Result) -> str:
    """Bundle (where there are several), name and precision, as tables and files show a system."""
    bundle = getattr(item, "bundle", "")
    return f"{bundle}: {item.name} {item.precision}" if bundle else f"{item.name} {item.precision}"


def _task(dataset: Dataset, episode: Episode | WaysEpisode, number: int) -> _Task:
    if isinstance(episode, Episode):
        shots = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
        query, truth = dataset.image(episode.query), dataset.mask(episode.query, episode.class_id)
        return _Task(episode, (episode.class_id,), [shots], query, truth)
    first, names = episode.ways[0], ", ".join(way.class_name for way in episode.ways)
    shown = Episode(first.class_id, names, episode.query, first.supports)
    ids = tuple(way.class_id for way in episode.ways)
    return _Task(shown, ids, read_supports(dataset, episode, number), *read_query(dataset, episode))


def _prepare(system: System, episode: Episode | WaysEpisode, task: _Task, calibrate: bool) -> Ways:
    if isinstance(episode, WaysEpisode):
        return system.prepare_ways(task.classes, calibrate)
    return Ways(system.prepare(task.classes[0]), [NEUTRAL])


def _query(system: System, ways: Ways, query: Pixels, spec: InputSpec, samples: Samples) -> tuple[Float, Pixels]:
    """Logits as the network gives them, and the labels of the calibrated ones."""
    if (whole := getattr(system, "whole", None)) is not None:
        found, spent = timed(lambda: whole(query, ways))
        if found is not None:
            samples.add(0.0, spent, 0.0)
            logits, labels = found
            return logits, labels
    return _measured(
        lambda: prepare_image(query, spec),
        lambda pixels: system.compute(pixels, ways.state),
        lambda logits, box: label_map(calibrated(logits, ways.calibrations), box),
        system,
        samples,
    )


def _measured(
    prepare: Callable[[], tuple[Float, Letterbox]],
    compute: Callable[[Float], Float],
    finish: Callable[[Float, Letterbox], Pixels],
    system: System,
    samples: Samples,
) -> tuple[Float, Pixels]:
    (pixels, box), pre = timed(prepare)
    logits, spent = timed(lambda: compute(pixels))
    mask, post = timed(lambda: finish(logits, box))
    transfers = getattr(system, "transfers", None)
    samples.add(pre, spent, post, transfers=None if transfers is None else transfers())
    return logits, mask


def overhead(count: int = 1000) -> float:
    """Milliseconds that the harness itself takes for one query: median over calls that do nothing."""
    logits, mask = np.zeros((1, 2, 1, 1), np.float32), np.zeros((1, 1), np.uint8)
    pixels, box = np.zeros((3, 1, 1), np.float32), Letterbox.fit(1, 1, 1)
    samples, system = Samples(), _Nothing()
    spent = []
    for _ in range(count):
        call = partial(
            _measured, lambda: (pixels, box), lambda given: logits, lambda found, where: mask, system, samples
        )
        spent.append(timed(call)[1])
    return float(np.median(spent))


class _Nothing:
    name = precision = ""
    device = "cpu"

    def prepare(self, shots: object) -> None:
        return None

    def prepare_ways(self, classes: object, calibrate: bool) -> Ways:
        return Ways(None, [])

    def compute(self, pixels: Float, state: object) -> Float:
        return pixels

    def transfers(self) -> None:
        return None


def _count(result: Result, task: _Task, mask: Pixels) -> None:
    (class_id,) = task.ids
    own = Confusion()
    own.add(mask, task.truth)
    tp, fp, fn, tn = own.true_positive, own.false_positive, own.false_negative, own.true_negative
    result.counts.append((class_id, tp, fp, fn, tn))
    result.score.add(class_id, mask, task.truth)


def _count_ways(result: Result, task: _Task, logits: Float, labels: Pixels, spec: InputSpec) -> None:
    box = Letterbox.fit(task.query.shape[0], task.query.shape[1], spec.size)
    joint, alone, confusion = count_ways(labels, [label_map(one[None], box) for one in logits], task.truth)
    for class_id, own, single in zip(task.ids, joint.tolist(), alone.tolist(), strict=True):
        result.counts.append((class_id, *own))
        result.alone.append((class_id, *single))
        result.score.classes[class_id].add_counts(*own)
    result.confusion = confusion if result.confusion is None else result.confusion + confusion


def _compare(result: Result, logits: Float, mask: Pixels, reference: tuple[Float, Pixels], truth: Pixels) -> None:
    wanted, wanted_mask = reference
    valid = truth != IGNORE
    result.differing.append(float((mask != wanted_mask)[valid].mean()) if valid.any() else 0.0)
    result.pixels.append(int(valid.sum()))
    of_class = [
        mask_iou(*((m[valid] == n).astype(np.uint8) for m in (mask, wanted_mask))) for n in range(1, result.ways + 1)
    ]
    result.mask_ious.append(float(np.mean(of_class)))
    # NaN stays NaN, and the report tells
    result.logits_errors.append(logits_error(logits, wanted))

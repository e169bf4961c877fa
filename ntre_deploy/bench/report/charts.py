"""Geometry of the page's charts, in percent of their width and height, so that they fit any screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntre_deploy.bench.latency import ORDER
from ntre_deploy.bench.report.tables import milliseconds, points

Report = Mapping[str, Any]

PART_NAMES = {
    "pre": "pre-processing",
    "h2d": "to the device",
    "compute": "network",
    "d2h": "from the device",
    "post": "post-processing",
}
_BINS = 96
# room beside the outermost points of the plot, as a share of its range
_MARGIN = 0.12
# percent between two marks of an axis, so that their texts fit beside each other on a phone
_APART = 9.0
# percent of the plot's width and height within which two numbers would cover each other
_NEAR = (7.0, 9.0)
# points of mIoU that the plot shows at least, so that noise does not fill it
_LEAST_SPAN = 4.0


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: percent from its beginning, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar from `x`, `width` wide and `height` high, all in percent."""

    x: float
    width: float
    height: float


@dataclass(frozen=True)
class Distribution:
    """A system's latencies: its histogram, and where its percentiles lie."""

    label: str
    colour: int
    n: int
    bars: list[Bar]
    marks: list[Tick]
    text: str


@dataclass(frozen=True)
class Point:
    """A system in the plot of speed against accuracy.

    `low` and `high` are the ends of its interval; its number stands `lane` heights above it, so that numbers of
    systems that are alike can all be read.
    """

    label: str
    colour: int
    number: int
    lane: int
    x: float
    y: float
    low: float | None
    high: float | None
    p50: str
    miou: str


@dataclass(frozen=True)
class Piece:
    """A part of a query: percent of the longest bar, its name and its milliseconds."""

    name: str
    part: str
    width: float
    text: str


@dataclass(frozen=True)
class Split:
    """A system's query, cut into its parts."""

    label: str
    pieces: list[Piece]
    total: str


def distributions(report: Report) -> tuple[list[Distribution], list[Tick]]:
    """Histograms of all systems over one logarithmic axis of milliseconds, and the ticks of that axis."""
    systems = report["systems"]
    low = min(system["latency_ms"]["total"]["min"] for system in systems)
    high = max(system["latency_ms"]["total"]["max"] for system in systems)
    axis = _Log(low, high)
    edges = np.exp(np.linspace(math.log(axis.low), math.log(axis.high), _BINS + 1))
    made = []
    for colour, system in enumerate(systems):
        counts, _ = np.histogram(system["samples_ms"], edges)
        top = max(int(counts.max()), 1)
        bars = [
            # a single sample of thousands must stay to be seen: the tail is what the chart is for
            Bar(100 * i / _BINS, 100 / _BINS, max(100 * int(c) / top, 4.0))
            for i, c in enumerate(counts)
            if c
        ]
        total = system["latency_ms"]["total"]
        marks = [Tick(axis.place(total[p]), p) for p in ("p50", "p90", "p99")]
        text = ", ".join(f"{p} {milliseconds(total[p])}" for p in ("p50", "p90", "p95", "p99", "max"))
        made.append(Distribution(system["label"], colour, total["n"], bars, marks, f"{text} ms"))
    return made, axis.ticks()


def speed_accuracy(report: Report) -> tuple[list[Point], list[Tick], list[Tick]]:
    """Median latency (logarithmic) against mIoU: the points, and the ticks of both axes."""
    systems = report["systems"]
    medians = [system["latency_ms"]["total"]["p50"] for system in systems]
    axis = _Log(min(medians), max(medians), _MARGIN)
    ends = [100 * value for system in systems for value in _ends(system)]
    middle, span = (min(ends) + max(ends)) / 2, max(max(ends) - min(ends), _LEAST_SPAN) * (1 + 2 * _MARGIN)
    bottom = max(min(middle - span / 2, 100 - span), 0)
    made: list[Point] = []

    def height(value: float) -> float:
        return 100 - 100 * (100 * value - bottom) / span

    for place, (system, median) in enumerate(zip(systems, medians, strict=True)):
        accuracy = system["accuracy"]
        interval = accuracy["miou_interval"]
        made.append(
            Point(
                system["label"],
                place,
                place + 1,
                _lane(axis.place(median), height(accuracy["miou"]), made),
                axis.place(median),
                height(accuracy["miou"]),
                None if interval is None else height(interval[0]),
                None if interval is None else height(interval[1]),
                milliseconds(median),
                points(accuracy["miou"]),
            )
        )
    step = _step(span)
    first = math.ceil(bottom / step)
    values = [step * i for i in range(first, math.floor((bottom + span) / step) + 1)]
    return made, axis.ticks(), [Tick(height(value / 100), f"{value:g}") for value in values if value <= 100]


def _lane(x: float, y: float, others: Sequence[Point]) -> int:
    taken = {p.lane for p in others if abs(p.x - x) < _NEAR[0] and abs(p.y - y) < _NEAR[1]}
    return next(lane for lane in range(len(others) + 1) if lane not in taken)


def cost_split(report: Report) -> list[Split]:
    """The medians of every part of a query, on one linear scale."""
    made = []
    sums = [sum(s["latency_ms"][part]["p50"] for part in ORDER if part in s["latency_ms"]) for s in report["systems"]]
    longest = max(sums) or 1.0
    for system, whole in zip(report["systems"], sums, strict=True):
        pieces = []
        for part in ORDER:
            if part in system["latency_ms"]:
                spent = system["latency_ms"][part]["p50"]
                pieces.append(Piece(PART_NAMES[part], part, 100 * spent / longest, f"{milliseconds(spent)} ms"))
        made.append(Split(system["label"], pieces, f"{milliseconds(whole)} ms"))
    return made


def _ends(system: Mapping[str, Any]) -> Sequence[float]:
    accuracy = system["accuracy"]
    return accuracy["miou_interval"] or [accuracy["miou"]]


class _Log:
    """A logarithmic axis that covers `low` to `high`, with a margin as a share of its length."""

    def __init__(self, low: float, high: float, margin: float = 0.02) -> None:
        low, high = max(low, 1e-3), max(high, 1e-3)
        if high / low < 1.2:  # all times alike: a point needs some surroundings
            low, high = low / 1.1, high * 1.1
        room = margin * math.log(high / low)
        self.low, self.high = math.exp(math.log(low) - room), math.exp(math.log(high) + room)

    def place(self, value: float) -> float:
        """Percent of the axis."""
        return 100 * math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[Tick]:
        """At most about eight round numbers."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
            values = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(values) <= 8:
                break
        if len(values) < 2:  # a range without two round numbers
            step = _step(self.high - self.low)
            values = [step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        ticks: list[Tick] = []
        for value in values:
            place = self.place(value)
            if not ticks or place - ticks[-1].at >= _APART:
                ticks.append(Tick(place, f"{value:g}"))
        return ticks


def _step(span: float) -> float:
    """A round step that cuts a span into about five."""
    rough = span / 5
    size = 10.0 ** math.floor(math.log10(rough))
    return next((float(d * size) for d in (1, 2, 5) if d * size >= rough), 10 * size)

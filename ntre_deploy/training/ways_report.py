"""What an N-way evaluation tells, beside and like `evaluation_report`: JSON, terminal tables, a sheet."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ntre_deploy.data.ways import WaysSet
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.overlay import contact_sheet, overlay
from ntre_deploy.training.evaluation_report import SEED, Pixels, build_report, metric, percent, signed, write_json
from ntre_deploy.training.evaluator import Counts
from ntre_deploy.training.ways import FOUND, Vanished, WaysEvaluation, WaysPicture

# a matrix of more classes does not fit a terminal; the report has it
_SHOWN = 8


def build_ways_report(
    found: WaysEvaluation,
    episodes: WaysSet,
    *,
    model: Mapping[str, Any],
    engine: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    calibrated: bool,
) -> dict[str, Any]:
    """The report of `build_report` about the label maps, and in `ways` what there is of several classes besides.

    Args:
        calibrated: whether the classes' margins were calibrated by the supports.
    """
    report = build_report(found.joint, episodes, model=model, engine=engine, environment=environment, command=command)
    alone, intervals, numbers = found.alone, found.alone.intervals(seed=SEED), found.alone.episodes_of
    spread = max(numbers.values()) > 1
    report["ways"] = {
        "ways": found.ways,
        "calibrated": calibrated,
        "one_way": {
            "miou": metric(alone.miou, intervals.miou if spread else None),
            "classes": {str(c): iou for c, iou in alone.score.class_iou.items()},
        },
        "difference": metric(found.difference, found.difference_interval(seed=SEED) if spread else None),
        "confusion": found.matrix.tolist(),
        "vanished": vanished_json(found.vanished()) | {"found_from": FOUND},
        "vanished_any": vanished_json(found.vanished(0.0)) | {"found_from": 0.0},
    }
    return report


def vanished_json(vanished: Vanished) -> dict[str, Any]:
    """As JSON values, with the share of the queries."""
    return {
        "share": vanished.share,
        "queries": vanished.queries,
        "found_queries": vanished.found_queries,
        "classes": vanished.vanished,
        "found_classes": vanished.found,
    }


def ways_lines(report: Mapping[str, Any]) -> list[str]:
    """What stands under the terminal's table: N-way against one-way, and what vanished."""
    ways = report["ways"]
    value, interval = percent(report["results"]["miou"])
    alone, _ = percent(ways["one_way"]["miou"])
    difference = ways["difference"]
    ends = f" ({signed(difference['low'])} to {signed(difference['high'])})" if difference["low"] is not None else ""
    lost = ways["vanished"]
    how = "calibrated by the supports" if ways["calibrated"] else "not calibrated"
    return [
        f"{ways['ways']}-way mIoU {value} ({interval}), one-way on the same queries {alone}; difference "
        f"{signed(difference['value'])}{ends}; margins {how}",
        f"vanished: a class that is found alone (IoU of {lost['found_from']:g} or more) has less than a third of that "
        f"among the others in {lost['queries']} of {lost['found_queries']} queries ({lost['share']:.1%})",
    ]


def confusion_table(matrix: Sequence[Sequence[int]]) -> Table | None:
    """Percent of the pixels of each row (the truth) by what they were labelled; None where it would be too wide."""
    size = len(matrix)
    if size > _SHOWN + 1:
        return None
    names = ["background", *(f"way {n}" for n in range(1, size))]
    table = Table(title="confusion: rows are the truth, columns the label, % of the row", title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right", no_wrap=True)
    for name, shares in zip(names, shares_of(matrix), strict=True):
        table.add_row(name, *(f"{100 * share:.2f}" for share in shares))
    return table


def shares_of(matrix: Sequence[Sequence[int]] | Counts) -> list[list[float]]:
    """Each row of a confusion matrix [N + 1, N + 1] as shares of its pixels; zeros where it has none."""
    counts = np.asarray(matrix, np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares: list[list[float]] = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0).tolist()
    return shares


def ways_sheet(pictures: Sequence[WaysPicture]) -> Pixels:
    """First support of each way, query, label map and ground truth: one row per episode; uint8 RGB [H, W, 3].

    A way has the same colour everywhere.
    """
    rows = []
    for picture in pictures:
        shown = [
            overlay(image, np.where(mask == 1, n, 0).astype(np.uint8))
            for n, (image, mask) in enumerate(picture.supports, 1)
        ]
        truth = np.where(picture.truth == IGNORE, 0, picture.truth).astype(np.uint8)
        rows.append([*shown, picture.query, overlay(picture.query, picture.labels), overlay(picture.query, truth)])
    ways = len(pictures[0].supports)
    return contact_sheet(rows, [*(f"way {n}" for n in range(1, ways + 1)), "query", "labels", "ground truth"])


def write_ways_report(
    folder: Path, report: Mapping[str, Any], found: WaysEvaluation, episodes: WaysSet
) -> dict[str, Path]:
    """Write `eval.json`, `episodes.csv` (pixel counts of each class of each episode) and perhaps `sheet.png`.

    Raises:
        InputError: the folder cannot be written.
    """
    written = {"report": folder / "eval.json", "episodes": folder / "episodes.csv"}
    write_json(written["report"], report)
    rows = [
        (number, way.class_id, way.class_name, episode.query)
        for number, episode in enumerate(episodes.episodes)
        for way in episode.ways
    ]
    with atomic_file(written["episodes"]) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        counts = ("tp", "fp", "fn", "tn")
        writer.writerow(("episode", "class", "class_name", "query", *counts, *(f"alone_{c}" for c in counts)))
        for row, joint, alone in zip(rows, found.joint.counts.tolist(), found.alone.counts.tolist(), strict=True):
            writer.writerow((*row, *joint, *alone))
    if found.pictures:
        written["sheet"] = folder / "sheet.png"
        write_png(written["sheet"], ways_sheet(found.pictures))
    return written

"""What an evaluation tells: JSON for machines, a table for terminals, a sheet in the manner of the paper's figure 5."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.data.ways import WaysSet
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.runtime.overlay import contact_sheet, overlay
from ntre_deploy.training.evaluator import LEVEL, RESAMPLES, Evaluation, Interval, Picture

FORMAT = "ntre-eval"
VERSION = 1
PROTOCOLS = ("exact", "released")
# of the bootstrap; the draw of the episodes has its own
SEED = 0
# below this, the bootstrap of a class sees too little of its spread
FEW_EPISODES = 10

Pixels = NDArray[np.uint8]


def build_report(
    evaluation: Evaluation,
    episodes: EpisodeSet | WaysSet,
    *,
    model: Mapping[str, Any],
    engine: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    protocol: str = "exact",
) -> dict[str, Any]:
    """The whole report as JSON values; metrics lie in [0, 1], each with its interval's ends (None with one episode).

    Args:
        model: what was evaluated; `origin` is its checkpoint's.
        engine: what ran it.
        protocol: one of `PROTOCOLS`, under which `evaluation` was made.
    """
    score, intervals = evaluation.score, evaluation.intervals(seed=SEED)
    numbers, class_iou = evaluation.episodes_of, score.class_iou
    spread = max(numbers.values()) > 1
    classes = [
        {
            "class": c,
            "name": evaluation.names[c],
            "episodes": numbers[c],
            **metric(class_iou[c], intervals.classes[c] if numbers[c] > 1 else None),
            "precision": score.classes[c].precision,
        }
        for c in class_iou
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        "protocol": protocol,
        "model": dict(model),
        "engine": dict(engine),
        "episodes": episodes.describe(),
        "environment": dict(environment),
        "bootstrap": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": SEED,
            "method": "percentile; episodes drawn again inside each class",
        },
        "results": {
            "miou": metric(score.miou, intervals.miou if spread else None),
            "fb_iou": metric(score.fb_iou, intervals.fb_iou if spread else None),
            "precision": metric(score.precision, intervals.precision if spread else None),
            "all_foreground_miou": evaluation.all_foreground,
            "classes": classes,
        },
        "warnings": _warnings(evaluation, episodes, model["origin"]),
    }


def metric(value: float, interval: Interval | None) -> dict[str, float | None]:
    """A figure with the ends of its interval."""
    # one episode has no spread to draw from, and an interval without width would look like certainty
    low, high = (None, None) if interval is None else interval
    return {"value": value, "low": low, "high": high}


def _warnings(evaluation: Evaluation, episodes: EpisodeSet | WaysSet, origin: Mapping[str, Any]) -> list[str]:
    warnings = []
    if origin.get("head") == "untrained":
        warnings.append("the head of this model is untrained: its masks mean nothing")
    held_back = (origin.get("split"), origin.get("fold"))
    # another kind of dataset has other classes, and its folds say nothing of these
    kinds = [str(name).partition(":")[0] for name in (origin.get("dataset", episodes.dataset), episodes.dataset)]
    if "dataset" in origin and origin.get("split") == "all" and kinds[0] == kinds[1]:
        warnings.append("the model was trained on all classes of this dataset: none of these is new to it")
    elif origin.get("fold") is not None and kinds[0] == kinds[1] and held_back != (episodes.split, episodes.fold):
        warnings.append(
            f"the model was trained with fold {held_back[1]} ({held_back[0]}) held back, and these episodes are not of "
            "that fold: it may have seen their classes in training"
        )
    few = [c for c, n in evaluation.episodes_of.items() if n < FEW_EPISODES]
    if few:
        warnings.append(
            f"{len(few)} of {len(evaluation.episodes_of)} classes have fewer than {FEW_EPISODES} episodes: "
            "the intervals are too narrow; raise --count"
        )
    return warnings


def heading(report: Mapping[str, Any]) -> str:
    """One line: what was evaluated, on what and how."""
    episodes, engine = report["episodes"], report["engine"]
    several = f"{episodes['ways']}-way " if "ways" in episodes else ""
    fold = "all classes" if episodes["fold"] is None else f"fold {episodes['fold']} ({episodes['split']})"
    return (
        f"{report['model']['name']} on {engine['name']} {engine['precision']}: {several}{episodes['shots']}-shot, "
        f"{episodes['count']} episodes of {episodes['dataset']}, {fold}, protocol {report['protocol']}"
    )


def table(report: Mapping[str, Any]) -> Table:
    """The terminal's table: one row per class, then the means; percent."""
    episodes, results = report["episodes"], report["results"]
    result = Table()
    for index, column in enumerate(("class", "episodes", "IoU", f"{report['bootstrap']['level']:.0%} interval")):
        result.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in results["classes"]:
        result.add_row(row["name"], str(row["episodes"]), *percent(row))
    result.add_section()
    for name, key in (("mIoU", "miou"), ("FB-IoU", "fb_iou"), ("precision", "precision")):
        result.add_row(name, str(episodes["count"]), *percent(results[key]))
    result.add_row("mIoU of all foreground", str(episodes["count"]), f"{100 * results['all_foreground_miou']:.2f}", "")
    return result


def percent(figure: Mapping[str, Any]) -> tuple[str, str]:
    """A figure and its interval, in points."""
    if figure["low"] is None:
        return f"{100 * figure['value']:.2f}", "-"
    return f"{100 * figure['value']:.2f}", f"{100 * figure['low']:.2f} - {100 * figure['high']:.2f}"


def signed(value: float) -> str:
    """A difference in points; no sign before a zero."""
    rounded = round(100 * value, 2)
    return f"{rounded:+.2f}" if rounded else "0.00"


def sheet(pictures: Sequence[Picture]) -> Pixels:
    """Support, query, BG map, DO map, initial and final prediction, ground truth: one row per episode.

    The maps are left out where they are not known: an engine gives final logits only, and a model may lack a module.

    Returns:
        uint8 RGB [H, W, 3].
    """
    rows: list[list[Pixels]] = []
    titles: list[str] = []
    for picture in pictures:
        cells: dict[str, Pixels | None] = {"support": overlay(picture.support, _target(picture.support_mask))}
        cells["query"] = picture.query
        if picture.stages is not None:
            cells["BG map"] = _tinted(picture.query, picture.stages.background)
            cells["DO map"] = _tinted(picture.query, picture.stages.distracting)
            cells["initial"] = _tinted(picture.query, picture.stages.initial)
        cells["final"] = overlay(picture.query, picture.labels)
        cells["ground truth"] = overlay(picture.query, _target(picture.truth))
        titles = [title for title, cell in cells.items() if cell is not None]
        rows.append([cell for cell in cells.values() if cell is not None])
    return contact_sheet(rows, titles)


def _target(mask: Pixels) -> Pixels:
    target: Pixels = (mask == 1).astype(np.uint8)
    return target


def _tinted(image: Pixels, mask: Pixels | None) -> Pixels | None:
    return None if mask is None else overlay(image, mask)


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def write_report(
    folder: Path, report: Mapping[str, Any], evaluation: Evaluation, episodes: EpisodeSet
) -> dict[str, Path]:
    """Write `eval.json`, `episodes.csv` (pixel counts of each episode, in the set's order) and perhaps `sheet.png`.

    Raises:
        InputError: the folder cannot be written.
    """
    written = {"report": folder / "eval.json", "episodes": folder / "episodes.csv"}
    write_json(written["report"], report)
    with atomic_file(written["episodes"]) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("class", "class_name", "query", "tp", "fp", "fn", "tn"))
        for episode, counts in zip(episodes.episodes, evaluation.counts.tolist(), strict=True):
            rows.writerow((episode.class_id, episode.class_name, episode.query, *counts))
    if evaluation.pictures:
        written["sheet"] = folder / "sheet.png"
        write_png(written["sheet"], sheet(evaluation.pictures))
    return written

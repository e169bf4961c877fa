"""Figures of a row over folds and seeds, with intervals over episodes and the spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntre_deploy.training.evaluator import LEVEL, RESAMPLES, Evaluation, Interval, intervals_of, resample

METRICS = ("miou", "fb_iou", "precision")

Found = Mapping[str, Any]


def summarise(runs: Sequence[Found]) -> dict[str, Any]:
    """JSON values of all runs of a row: for each number of shots and fold, the mean over seeds with two spreads.

    `low` and `high` are the bootstrap interval over episodes of the seeds' summed pixel counts; `seed_std` is the
    standard deviation over seeds (None with one seed).
    """
    folds = sorted({run["fold"] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    shots = list(runs[0]["shots"])
    tables: dict[str, Any] = {}
    for k in shots:
        rows = []
        for fold in folds:
            same = [run["shots"][k] for run in runs if run["fold"] == fold]
            rows.append({"fold": fold, "episodes": same[0]["episodes"], "classes": len(set(same[0]["classes"]))})
            rows[-1] |= {name: _figure([f[name] for f in same], _intervals(same)[name]) for name in METRICS}
            rows[-1]["all_foreground_miou"] = same[0]["all_foreground_miou"]
            rows[-1]["counts"] = packed(_summed(runs, k, fold))
        per_seed = [float(np.mean([run["shots"][k]["miou"] for run in runs if run["seed"] == seed])) for seed in seeds]
        tables[k] = {
            "folds": rows,
            "mean_miou": _figure(per_seed, mean_interval([_summed(runs, k, fold) for fold in folds])),
            "mean_fb_iou": float(np.mean([row["fb_iou"]["value"] for row in rows])),
            "mean_precision": float(np.mean([row["precision"]["value"] for row in rows])),
            "mean_all_foreground_miou": float(np.mean([row["all_foreground_miou"] for row in rows])),
        }
    return {
        "seeds": seeds,
        "level": LEVEL,
        "bootstrap": f"{RESAMPLES} resamples over episodes inside each class, of the seeds' summed counts",
        "train_seconds": [round(run["train_seconds"], 1) for run in runs],
        "shots": tables,
    }


def packed(evaluation: Evaluation) -> list[str]:
    """One line for each episode: its class and the seeds' summed TP, FP, FN and TN pixels."""
    return [" ".join(map(str, (c, *row))) for c, row in zip(evaluation.classes, evaluation.counts, strict=True)]


def unpacked(lines: Sequence[str]) -> Evaluation:
    """Inverse of `packed`, without the names."""
    table = np.array([line.split() for line in lines], np.int64)
    return Evaluation(table[:, 0], table[:, 1:], {})


def mean_interval(folds: Sequence[Evaluation], other: Sequence[Evaluation] | None = None) -> Interval:
    """Interval of the folds' mean mIoU; with `other`, of the difference to another row on the same episodes."""
    values = _fold_means(folds)
    if other is not None:
        values = values - _fold_means(other)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, (tail, 100 - tail))
    return Interval(float(low), float(high))


def _fold_means(folds: Sequence[Evaluation]) -> np.ndarray[Any, np.dtype[np.float64]]:
    drawn = []
    for evaluation in folds:
        sums = resample(evaluation.classes, evaluation.counts).values()
        drawn.append(np.mean([s[:, 0] / np.maximum(s[:, :3].sum(axis=1), 1) for s in sums], axis=0))
    return np.asarray(np.mean(drawn, axis=0))


def _summed(runs: Sequence[Found], k: str, fold: int) -> Evaluation:
    same = [run["shots"][k] for run in runs if run["fold"] == fold]
    counts = np.sum([np.array(found["counts"], np.int64) for found in same], axis=0)
    return Evaluation(np.array(same[0]["classes"], np.int64), counts, same[0]["names"])


def _intervals(same: Sequence[Found]) -> dict[str, Interval]:
    counts = np.sum([np.array(found["counts"], np.int64) for found in same], axis=0)
    found = intervals_of(resample(np.array(same[0]["classes"], np.int64), counts))
    return {"miou": found.miou, "fb_iou": found.fb_iou, "precision": found.precision}


def _figure(values: Sequence[float], interval: Interval) -> dict[str, Any]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {
        "value": float(np.mean(values)),
        "low": interval.low,
        "high": interval.high,
        "seed_std": spread,
        "seeds": list(values),
    }

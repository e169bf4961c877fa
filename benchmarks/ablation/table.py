"""Print the table of all rows as Markdown, from the results.

python benchmarks/ablation/table.py
"""

import json
from pathlib import Path
from typing import Any

from rows import PARTS
from summary import mean_interval, unpacked

RESULTS = Path(__file__).parents[1] / "results"
NAMES = {
    "matcher": "prototype matcher, no training",
    "baseline": "baseline",
    "bgem": "+ BGEM",
    "doem": "+ DOEM",
    "pcl": "+ PCL",
}


def main() -> None:
    found = {}
    for row in NAMES:
        path = RESULTS / f"coco_mini_{row}.json"
        if path.is_file():
            found[row] = json.loads(path.read_text())
    for shots in ("1", "5"):
        print("\n".join(table({row: result["shots"][shots] for row, result in found.items()}, shots)) + "\n")


def table(rows: dict[str, Any], shots: str) -> list[str]:
    """Lines of the table for one number of shots; `rows` has each row's part of the results."""
    lines = [
        f"| {shots}-shot | fold 0 | fold 1 | fold 2 | fold 3 | mean mIoU | against baseline | FB-IoU | precision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = next(iter(rows.values()))
    ones = [_percent(fold["all_foreground_miou"]) for fold in first["folds"]]
    lines.append(f"| all foreground | {' | '.join(ones)} | {_percent(first['mean_all_foreground_miou'])} | | | |")
    for row, part in rows.items():
        mean, spread = part["mean_miou"], part["mean_miou"]["seed_std"]
        folds = " | ".join(_percent(fold["miou"]["value"]) for fold in part["folds"])
        seeds = "" if spread is None else f" ± {100 * spread:.1f}"
        lines.append(
            f"| {NAMES[row]} | {folds} | {_percent(mean['value'])}{seeds} "
            f"({_percent(mean['low'])} to {_percent(mean['high'])}) | {_difference(part, rows, row)} "
            f"| {_percent(part['mean_fb_iou'])} | {_percent(part['mean_precision'])} |"
        )
    return lines


def _difference(part: dict[str, Any], rows: dict[str, Any], row: str) -> str:
    """Paired over the episodes: both rows ran the same ones."""
    if row not in PARTS or row == "baseline" or "baseline" not in rows:
        return ""
    ours, theirs = ([unpacked(fold["counts"]) for fold in p["folds"]] for p in (part, rows["baseline"]))
    low, high = mean_interval(ours, theirs)
    value = part["mean_miou"]["value"] - rows["baseline"]["mean_miou"]["value"]
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    main()

"""What a tune tells: one screen, a sheet of pictures, and JSON."""

from typing import Any

import numpy as np
from rich.table import Table

from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.overlay import contact_sheet, overlay
from ntre_deploy.training.evaluator import LEVEL, Evaluation, Picture
from ntre_deploy.tuning.judge import LEAST_JUDGED
from ntre_deploy.tuning.run import Tuned
from ntre_deploy.tuning.split import ENOUGH, LEAST

# rows of the sheet at most
_PICTURES = 8


def table(tuned: Tuned) -> Table:
    """A row for each class and one for the mean; percent, on the held-out photos."""
    result = Table()
    shown = {"matcher": tuned.matcher, "before": tuned.before, "after": tuned.after}
    # a matcher that is tuned has no other beside it
    columns = {name: found for name, found in shown.items() if found is not None}
    for index, column in enumerate(("class", "photos", "held out", "all target", *columns)):
        result.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for c, held in tuned.split.held_out.items():
        photos = len(held) + len(tuned.split.learn[c])
        ious = [_percent(found.score.class_iou[c]) for found in columns.values()]
        result.add_row(tuned.names[c], str(photos), str(len(held)), _percent(_share(tuned.after, c)), *ious)
    result.add_section()
    split = tuned.split
    learned, held_out = (len({i for ids in group.values() for i in ids}) for group in (split.learn, split.held_out))
    means = [_percent(found.miou) for found in columns.values()]
    result.add_row("mean IoU", str(learned + held_out), str(held_out), _percent(tuned.after.all_foreground), *means)
    return result


def verdict(tuned: Tuned) -> str:
    """One line: the gain with its interval."""
    low, high = tuned.gain.interval
    few = f"; fewer than {LEAST_JUDGED} are too few to be sure" if tuned.gain.photos < LEAST_JUDGED else ""
    return (
        f"{100 * tuned.gain.value:+.1f} points on {tuned.gain.photos} held-out photos ({LEVEL:.0%} interval "
        f"{100 * low:+.1f} to {100 * high:+.1f}, paired{few})"
    )


def notes(tuned: Tuned) -> list[str]:
    """What a reader should know of the photos."""
    found = []
    few = {
        tuned.names[c]: len(held) + len(tuned.split.learn[c])
        for c, held in tuned.split.held_out.items()
        if len(held) + len(tuned.split.learn[c]) < ENOUGH
    }
    if few:
        shown = ", ".join(f"'{name}' {count}" for name, count in few.items())
        found.append(f"fewer than {ENOUGH} photos: {shown}; the figures of these mean little, add photos")
    if unjudged := [tuned.names[c] for c in tuned.split.learn if c not in tuned.split.held_out]:
        found.append(f"learned from but not judged, for want of photos to hold out: {', '.join(unjudged)}")
    if tuned.split.left_out:
        shown = ", ".join(f"'{tuned.names[c]}' {count}" for c, count in list(tuned.split.left_out.items())[:6])
        more = len(tuned.split.left_out) - 6
        found.append(
            f"left out, with fewer than {LEAST} usable photos: {shown}" + (f" and {more} more" if more > 0 else "")
        )
    return found


def content(tuned: Tuned) -> dict[str, Any]:
    """JSON values of everything above."""
    low, high = tuned.gain.interval
    classes = [
        {
            "name": tuned.names[c],
            "photos": len(held) + len(tuned.split.learn[c]),
            "held_out": held,
            "before": tuned.before.score.class_iou[c],
            "after": tuned.after.score.class_iou[c],
            "matcher": None if tuned.matcher is None else tuned.matcher.score.class_iou[c],
        }
        for c, held in tuned.split.held_out.items()
    ]
    return {
        "kept": tuned.checkpoint is not None,
        "miou": {
            "before": tuned.before.miou,
            "after": tuned.after.miou,
            "matcher": None if tuned.matcher is None else tuned.matcher.miou,
            "all_target": tuned.after.all_foreground,
        },
        "gain": {"value": tuned.gain.value, "low": low, "high": high, "level": LEVEL},
        "classes": classes,
        "notes": notes(tuned),
    }


def sheet(tuned: Tuned) -> Pixels:
    """Support, held-out photo, before, after and truth: one row a photo, the classes in turn; uint8 RGB [H, W, 3]."""
    pairs = list(zip(tuned.before.pictures, tuned.after.pictures, strict=True))
    turns: dict[int, int] = {}
    order: list[tuple[int, int, tuple[Picture, Picture]]] = []
    for pair in pairs:
        c = pair[0].episode.class_id
        turns[c] = turns.get(c, 0) + 1
        order.append((turns[c], c, pair))
    rows = []
    for _, _, (before, after) in sorted(order, key=lambda entry: entry[:2])[:_PICTURES]:
        rows.append(
            [
                overlay(before.support, _target(before.support_mask)),
                before.query,
                overlay(before.query, before.labels),
                overlay(after.query, after.labels),
                overlay(before.query, _target(before.truth)),
            ]
        )
    return contact_sheet(rows, ["support", "held out", "before", "after", "truth"])


def _target(mask: Pixels) -> Pixels:
    target: Pixels = (mask == 1).astype(np.uint8)
    return target


def _share(evaluation: Evaluation, class_id: int) -> float:
    """IoU of calling every pixel the target."""
    tp, fp, fn, tn = evaluation.counts[evaluation.classes == class_id].sum(axis=0)
    return float((tp + fn) / max(tp + fp + fn + tn, 1))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

"""The files of a report: JSON, Markdown, one HTML page, and a sheet of the worst episodes."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.bench.pytorch import repeats_reference
from ntre_deploy.bench.report import tables
from ntre_deploy.bench.report.page import render
from ntre_deploy.bench.runner import Picture
from ntre_deploy.files import atomic_file
from ntre_deploy.runtime.imagefile import write_png
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.runtime.overlay import contact_sheet, overlay

Pixels = NDArray[np.uint8]


def write_report(folder: Path, report: Mapping[str, Any], pictures: Sequence[Picture]) -> dict[str, Path]:
    """Write `bench.json`, `report.html`, `report.md` and, with pictures, `sheet.png`; the paths by what they are.

    The page is left out where jinja2, of which it is made, is not installed.

    Raises:
        InputError: the folder cannot be written.
    """
    written = {"report": folder / "report.html", "JSON": folder / "bench.json", "Markdown": folder / "report.md"}
    _write_text(written["JSON"], json.dumps(report, indent=2, allow_nan=False) + "\n")
    if has_jinja():
        _write_text(written["report"], render(report, pictures))
    else:
        del written["report"]
    _write_text(written["Markdown"], markdown(report, bool(pictures)))
    if pictures:
        written["sheet"] = folder / "sheet.png"
        write_png(written["sheet"], _sheet(pictures))
    return written


def has_jinja() -> bool:
    """Whether there is what the page is made of."""
    return find_spec("jinja2") is not None


def _sheet(pictures: Sequence[Picture]) -> Pixels:
    """Support, query, ground truth and the masks of every system but cached PyTorch, which repeats the reference."""
    shown = [name for name in pictures[0].masks if not repeats_reference(name)]
    rows = []
    for picture in pictures:
        masks = [picture.masks[name] for name in shown]
        support = overlay(picture.support, (picture.support_mask == 1).astype(np.uint8))
        truth = overlay(picture.query, _target(picture.truth))
        rows.append([support, picture.query, truth, *(overlay(picture.query, mask) for mask in masks)])
    return contact_sheet(rows, ("support", "query", "ground truth", *shown))


def _target(truth: Pixels) -> Pixels:
    """What is right, without the pixels that are ignored."""
    target: Pixels = np.where(truth == IGNORE, 0, truth).astype(np.uint8)
    return target


def markdown(report: Mapping[str, Any], sheet: bool = False) -> str:
    """The report for places that show Markdown, such as the summary of a pipeline's job."""
    lines = [f"# {tables.title(report)}", "", f"    {report['command']}", ""]
    for check in report["gates"]:
        lines.append(f"- {'passed' if check['passed'] else '**failed**'}: {check['text']}")
    if report["gates"]:
        lines.append("")
    lines += _table(tables.LATENCY, tables.latency_rows(report))
    lines += [
        "",
        "A query's time runs from the decoded image to the label map at its own size. `pytorch full` runs the "
        "training network on supports and query every time; the others encode the supports once. "
        "Speed-up and differing pixels are against `pytorch full`.",
        "",
        *_table(tables.PARITY, tables.parity_rows(report)),
        "",
        *_table(tables.COSTS, tables.cost_rows(report)),
        "",
    ]
    if rows := tables.ways_rows(report):
        lines += [*_table(tables.WAYS, rows), "", *_confusions(report)]
    lines += [f"- not run: {name}: {reason}" for name, reason in report["skipped"].items()]
    lines += [f"- warning: {warning}" for warning in report["warnings"]]
    if sheet:
        lines += ["", "![support, query, ground truth and masks](sheet.png)"]
    environment = report["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    lines += ["", f"{environment['cpu']}, {environment['cores']} cores; {versions}", ""]
    return "\n".join(lines)


def _confusions(report: Mapping[str, Any]) -> list[str]:
    """The confusion matrix of the reference and of every engine."""
    lines = []
    for system in report["systems"]:
        if not repeats_reference(system["name"]):
            matrix = _table(*tables.confusion_rows(system["accuracy"]["ways"]["confusion"]))
            lines += [f"Confusion of {system['label']}, % of the truth's pixels by label:", "", *matrix, ""]
    return lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    # a cell must not end the table's row, whatever a bundle is called
    made = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (columns, *rows)]
    return [made[0], "|" + "---|" * len(columns), *made[1:]]


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""What a bench run tells: JSON for machines, a table for terminals, Markdown and pictures for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ntre_deploy.bench.latency import summarise
from ntre_deploy.bench.runner import Picture, Result, label
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.data.images import write_png
from ntre_deploy.files import atomic_file, plain_name
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.overlay import contact_sheet, overlay

FORMAT = "ntre-bench"
VERSION = 1
# above this coefficient of variation, a latency is not stable enough to be compared closely
MAX_COV = 0.025
# below this number of samples, high percentiles are the maximum by another name
MIN_SAMPLES = 30


def build_report(
    bundle: Bundle,
    episodes: EpisodeSet,
    results: Sequence[Result],
    skipped: dict[str, str],
    environment: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """The whole report as JSON values; the first result is the reference.

    Latencies are milliseconds, ratios are against the reference's median, accuracies and shares lie in [0, 1].
    """
    reference = results[0].queries.summary()["total"]["p50"]
    systems: list[dict[str, Any]] = []
    for result in results:
        latency = result.queries.summary()
        weights = np.asarray(result.pixels, np.float64)
        differing = float(np.average(result.differing, weights=weights)) if weights.sum() else 0.0
        worst = float(np.max(result.logits_errors))
        systems.append(
            {
                "name": result.name,
                "precision": result.precision,
                "latency_ms": latency,
                "support_ms": summarise(result.supports) if result.supports else None,
                "speedup": reference / latency["total"]["p50"],
                "accuracy": {
                    "miou": result.score.miou,
                    "fb_iou": result.score.fb_iou,
                    "precision": result.score.precision,
                    "classes": {str(c): iou for c, iou in result.score.class_iou.items()},
                },
                "parity": {
                    "miou_drop": results[0].score.miou - result.score.miou,
                    "differing_pixels": differing,
                    "mask_iou": float(np.mean(result.mask_ious)),
                    "logits_error": worst if np.isfinite(worst) else None,
                },
            }
        )
    warnings = []
    for result, system in zip(results, systems, strict=True):
        if system["parity"]["logits_error"] is None:
            warnings.append(f"{label(result)} gave NaN or infinity: do not use it")
        if (cov := system["latency_ms"]["total"]["cov"]) > MAX_COV:
            warnings.append(
                f"{label(result)}: times vary by {cov:.0%} (CoV; up to {MAX_COV:.1%} is steady), as on a shared machine"
            )
    if (n := systems[0]["latency_ms"]["total"]["n"]) < MIN_SAMPLES:
        warnings.append(f"{n} samples each; p99 needs {MIN_SAMPLES} or more, by --count or --rounds")
    load, cores = environment.get("load_before"), environment.get("cores")
    if load is not None and cores is not None and load + environment["threads"] > cores + 0.5:
        warnings.append(f"the machine was busy (load {load:.1f} on {cores} cores) before the run")
    model = bundle.manifest.model
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        "bundle": {
            "name": bundle.manifest.name,
            "checkpoint_sha256": model.checkpoint_sha256,
            "config": model.config,
            "input_size": bundle.manifest.input.size,
            "head": model.origin.get("head", "unknown"),
            "files": {entry.name: entry.size for entry in bundle.manifest.files},
        },
        "episodes": episodes.describe(),
        "environment": environment,
        "systems": systems,
        "skipped": skipped,
        "warnings": warnings,
    }


_COLUMNS = ("system", "precision", "p50 ms", "p90 ms", "p99 ms", "speed-up", "mIoU", "pixels that differ")


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for system in report["systems"]:
        total = system["latency_ms"]["total"]
        rows.append(
            (
                system["name"],
                system["precision"],
                f"{total['p50']:.1f}",
                f"{total['p90']:.1f}",
                f"{total['p99']:.1f}",
                f"{system['speedup']:.2f} x",
                f"{100 * system['accuracy']['miou']:.2f}",
                f"{100 * system['parity']['differing_pixels']:.3f} %",
            )
        )
    return rows


def _title(report: dict[str, Any]) -> str:
    bundle, episodes = report["bundle"], report["episodes"]
    return (
        f"{bundle['name']}: {bundle['config']['backbone']} at {bundle['input_size']}, {episodes['shots']}-shot, "
        f"{episodes['count']} episodes of {episodes['dataset']}, {report['environment']['threads']} threads"
    )


def table(report: dict[str, Any]) -> Table:
    """The terminal's table: query latency end to end, speed-up against the first row, accuracy, parity."""
    result = Table(title=_title(report), title_justify="left")
    for index, column in enumerate(_COLUMNS):
        result.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    for row in _rows(report):
        result.add_row(*row)
    return result


def write_report(folder: Path, report: dict[str, Any], pictures: Sequence[Picture]) -> list[Path]:
    """Write `bench.json`, `report.md`, a contact sheet and one overlay per episode and system.

    Raises:
        InputError: the folder cannot be written.
    """
    written = [folder / "bench.json", folder / "report.md"]
    _write_text(written[0], json.dumps(report, indent=2) + "\n")
    _write_text(written[1], _markdown(report, bool(pictures)))
    if not pictures:
        return written
    systems = list(pictures[0].masks)
    shown = [systems[0], *systems[2:]] if len(systems) > 2 else systems
    rows = []
    for number, picture in enumerate(pictures):
        truth = (picture.truth == 1).astype(np.uint8)
        support = overlay(picture.support, (picture.support_mask == 1).astype(np.uint8))
        tinted = {name: overlay(picture.query, mask) for name, mask in picture.masks.items()}
        for name in shown:
            stem = plain_name(f"{number:03d}_{picture.episode.class_name}_{name}")
            written.append(folder / "overlays" / f"{stem}.png")
            write_png(written[-1], tinted[name])
        rows.append([support, picture.query, overlay(picture.query, truth), *(tinted[name] for name in shown)])
    written.append(folder / "sheet.png")
    write_png(written[-1], contact_sheet(rows, ("support", "query", "ground truth", *shown)))
    return written


def _markdown(report: dict[str, Any], pictures: bool) -> str:
    lines = [f"# {_title(report)}", "", f"    {report['command']}", ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(report)]
    lines += [
        "",
        "A query's time runs from the decoded image to the label map at its own size. `pytorch full` runs the "
        "training network on supports and query every time; the others encode the supports once. "
        "Speed-up and differing pixels are against `pytorch full`.",
        "",
        "| system | precision | pre ms | compute ms | post ms | supports ms | logits error | mask IoU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for system in report["systems"]:
        parts, parity = system["latency_ms"], system["parity"]
        error = "NaN" if parity["logits_error"] is None else f"{parity['logits_error']:.1e}"
        support = f"{system['support_ms']['p50']:.1f}" if system["support_ms"] else "-"
        lines.append(
            f"| {system['name']} | {system['precision']} | {parts['pre']['p50']:.2f} | {parts['compute']['p50']:.2f} "
            f"| {parts['post']['p50']:.2f} | {support} | {error} | {parity['mask_iou']:.4f} |"
        )
    if report["bundle"]["head"] == "untrained":
        lines += ["", "The head of this checkpoint is untrained: its mIoU means nothing, parity and latency do."]
    lines += [f"- not run: {name}: {reason}" for name, reason in report["skipped"].items()]
    lines += [f"- warning: {warning}" for warning in report["warnings"]]
    if pictures:
        lines += ["", "![support, query, ground truth and masks](sheet.png)"]
    environment = report["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    lines += ["", f"{environment['cpu']}, {environment['cores']} cores; {versions}", ""]
    return "\n".join(lines)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)

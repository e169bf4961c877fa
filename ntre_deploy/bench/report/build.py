"""The report as JSON values, in the form that `bench-3.schema.json` describes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ntre_deploy.bench import parity
from ntre_deploy.bench.baseline import FORMAT, VERSION
from ntre_deploy.bench.footprint import Footprint
from ntre_deploy.bench.latency import summarise
from ntre_deploy.bench.pytorch import is_pytorch
from ntre_deploy.bench.report.warnings import find_warnings
from ntre_deploy.bench.runner import Result, label
from ntre_deploy.bench.systems import Facts
from ntre_deploy.bench.throughput import Rate
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.data.ways import WaysSet
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.training.evaluator import LEVEL, RESAMPLES
from ntre_deploy.training.metrics import Score
from ntre_deploy.training.ways import FOUND, count_vanished
from ntre_deploy.training.ways_report import vanished_json

# a thousandth of a microsecond is below what the clock tells
_DIGITS = 6


@dataclass
class Run:
    """What was measured besides latency and masks; every list has one entry per result, None where it was not.

    Attributes:
        rates: images per second for each number of threads.
        footprints: load time and memory; a text says why there are none.
        facts: where each engine's precision is read from.
        conditions: what `Watch.stop` tells.
        protocol: how it was measured, as JSON values.
        skipped: engine -> why it could not run.
        notes: warnings that are known before anything is measured.
    """

    rates: Sequence[Sequence[Rate] | None] = ()
    footprints: Sequence[Footprint | str | None] = ()
    facts: Sequence[Facts | None] = ()
    conditions: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def build_report(
    bundles: Mapping[str, Bundle],
    episodes: EpisodeSet | WaysSet,
    results: Sequence[Result],
    environment: Mapping[str, Any],
    command: str,
    run: Run | None = None,
) -> dict[str, Any]:
    """The whole report as JSON values; no gate has been checked yet.

    Latencies are milliseconds, ratios are against the reference's median, accuracies and shares lie in [0, 1].

    Args:
        bundles: by the name that the results have; a result without one belongs to the first.
        results: in the order of `run_groups`.
    """
    run = run or Run()
    first = next(iter(bundles))
    drawn = [parity.draw(result.counts, ways=result.ways) for result in results]
    stored = {label(r.against): r.against for r in results if r.against is not None}
    systems = []
    for place, result in enumerate(results):
        reference, other = results[result.reference], drawn[result.reference]
        if result.against is not None:
            reference, other = result.against, parity.draw(result.against.counts)
        baseline = None if result.baseline is None else results[result.baseline]
        system = _system(result, reference, baseline, drawn[place], other)
        system["bundle"] = result.bundle or first
        system["label"] = label(result)
        systems.append(system | _beside(run, place))
    report = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "bundles": [_bundle(name, bundle) for name, bundle in bundles.items()],
        "episodes": episodes.describe(),
        "environment": dict(environment),
        "protocol": {
            "bootstrap": {
                "level": LEVEL,
                "resamples": RESAMPLES,
                "seed": parity.SEED,
                "method": "percentile; whole episodes drawn again, the same for all systems",
            }
        }
        | dict(run.protocol),
        "conditions": None if run.conditions is None else dict(run.conditions),
        "systems": systems,
        "stored": [
            {"label": name, "bundle": found.bundle or first, "miou": found.score.miou, "fb_iou": found.score.fb_iou}
            for name, found in stored.items()
        ],
        "skipped": dict(run.skipped),
        "gates": [],
    }
    return report | {"warnings": [*run.notes, *find_warnings(report)]}


def _system(
    result: Result, reference: Result, baseline: Result | None, own: parity.Drawn, other: parity.Drawn
) -> dict[str, Any]:
    latency = result.queries.summary()
    weights = np.asarray(result.pixels, np.float64)
    differing = float(np.average(result.differing, weights=weights)) if weights.sum() else 0.0
    worst = float(np.max(result.logits_errors))
    # one episode has no spread to draw from, and an interval without width would look like certainty
    spread = len(result.counts) > result.ways
    score = result.score
    return {
        "name": result.name,
        "precision": result.precision,
        "kind": "pytorch" if is_pytorch(result.name) else "engine",
        "device": result.device,
        "reference": result.reference,
        "latency_ms": latency,
        "samples_ms": [round(value, _DIGITS) for value in result.queries.parts["total"]],
        "support_ms": summarise(result.supports) if result.supports else None,
        "speedup": None if baseline is None else baseline.median / result.median,
        "speedup_against": result.baseline,
        "accuracy": {
            "miou": score.miou,
            "miou_interval": list(parity.interval(own.miou)) if spread else None,
            "fb_iou": score.fb_iou,
            "precision": score.precision,
            "classes": {str(c): iou for c, iou in score.class_iou.items()},
        }
        | ({} if result.confusion is None else {"ways": _ways(result, own, spread)}),
        "parity": {
            "against": label(reference),
            "finite": bool(np.isfinite(worst)),
            "miou_drop": reference.score.miou - score.miou,
            "miou_drop_interval": list(parity.interval(other.miou - own.miou)) if spread else None,
            "fb_iou_drop": reference.score.fb_iou - score.fb_iou,
            "fb_iou_drop_interval": list(parity.interval(other.fb_iou - own.fb_iou)) if spread else None,
            "differing_pixels": differing,
            "pixel_agreement": 1 - differing,
            "worst_episode": float(np.max(result.differing)),
            "mask_iou": float(np.mean(result.mask_ious)),
            "logits_error": worst if np.isfinite(worst) else None,
        },
    }


def _ways(result: Result, own: parity.Drawn, spread: bool) -> dict[str, Any]:
    """What there is of several classes: each alone on the same queries, confusion, and what vanished."""
    assert result.confusion is not None
    alone = Score()
    for class_id, *counts in result.alone:
        alone.classes[class_id].add_counts(*counts)
    drawn = parity.draw(result.alone, ways=result.ways)
    joint, single = (np.array(rows, np.int64)[:, 1:] for rows in (result.counts, result.alone))
    return {
        "ways": result.ways,
        "one_way_miou": alone.miou,
        "difference": result.score.miou - alone.miou,
        "difference_interval": list(parity.interval(own.miou - drawn.miou)) if spread else None,
        "confusion": result.confusion.tolist(),
        "vanished": vanished_json(count_vanished(joint, single, result.ways)) | {"found_from": FOUND},
    }


def _beside(run: Run, place: int) -> dict[str, Any]:
    rates = run.rates[place] if run.rates else None
    found = run.footprints[place] if run.footprints else None
    facts = run.facts[place] if run.facts else None
    return {
        "precision_asked": facts.asked or None if facts is not None else None,
        "precision_evidence": facts.evidence or None if facts is not None else None,
        "files": dict(facts.files) if facts is not None else {},
        "throughput": None if rates is None else [asdict(rate) for rate in rates],
        "footprint": asdict(found) if isinstance(found, Footprint) else None,
        "footprint_missing": found if isinstance(found, str) else None,
    }


def _bundle(name: str, bundle: Bundle) -> dict[str, Any]:
    model = bundle.manifest.model
    return {
        "name": name,
        "model": model.id,
        "checkpoint_sha256": model.checkpoint_sha256,
        "config": model.config,
        "input_size": bundle.manifest.input.size,
        "head": model.origin.get("head", "unknown"),
        "files": {entry.name: entry.size for entry in bundle.manifest.files},
    }

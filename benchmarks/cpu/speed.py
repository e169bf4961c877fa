"""Latency of one query by every system: ratios, the share of each part, and the fraction of the machine's limit."""

import argparse
from typing import Any

import numpy as np
from common import Setting, show, write
from limits import product_rate, query_operations
from numpy.typing import NDArray
from parts import Inputs, named_parts, onnxruntime_shares, openvino_shares, torch_shares, upper_modules
from systems import all_systems, load_model

from ntre_deploy.bench.runner import Result, run_bench
from ntre_deploy.bench.systems import Cached, System
from ntre_deploy.data.episodes import Episode
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.letterbox import prepare_image

Float = NDArray[np.float32]
_PROFILED = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this command alone."""
    parser.add_argument("--shots", type=int, default=1, help="supports of each episode (default: 1)")


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Measure and write."""
    systems, skipped = all_systems(setting.bundle, setting.threads, setting.checkpoint)
    episodes = setting.episodes(args.shots)
    spec = setting.bundle.manifest.input
    results, _ = run_bench(systems, spec, setting.dataset, episodes, rounds=setting.rounds)
    inputs = [_inputs(setting, systems[1], episode) for episode in episodes.episodes]
    model = load_model(setting.bundle, setting.checkpoint)
    shapes = [(given["keys"].shape, given["chunks"].shape) for given in inputs]
    operations = float(np.mean([query_operations(model, spec.size, *pair) for pair in shapes]))
    rates = {name: product_rate(name, setting.threads) for name in ("fp32", "bf16", "int8")}
    shares = _shares(setting, inputs[0], systems)
    rows = [_row(s, r, results[0], shares, operations, rates) for s, r in zip(systems, results, strict=True)]
    write(
        args.out,
        setting,
        {
            "shots": args.shots,
            "episodes": episodes.describe(),
            "rounds": setting.rounds,
            "query_gflop": operations / 1e9,
            "keys_shapes": [list(keys) for keys, _ in shapes],
            "matrix_product_gflop_s": {k: v and v / 1e9 for k, v in rates.items()},
            "skipped": skipped,
            "systems": rows,
        },
    )
    _table(f"{args.shots}-shot query, {operations / 1e9:.0f} GFLOP cached", rows)
    told = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items() if rate)
    print(f"matrix products of this machine, GFLOP/s: {told}")


def _row(
    system: System,
    result: Result,
    reference: Result,
    shares: dict[tuple[str, str], dict[str, float]],
    operations: float,
    rates: dict[str, float | None],
) -> dict[str, Any]:
    latency = result.queries.summary()
    weights = np.asarray(result.pixels, np.float64)
    cached = isinstance(system, Cached)
    rate = rates.get(system.precision)
    reached = operations / (latency["compute"]["p50"] / 1e3)
    return {
        "name": system.name,
        "precision": system.precision,
        "latency_ms": latency,
        "ratio": reference.queries.summary()["compute"]["p50"] / latency["compute"]["p50"],
        "equal_pixels": 1 - float(np.average(result.differing, weights=weights)),
        "gflop_s": reached / 1e9 if cached else None,
        "of_limit": reached / rate if cached and rate else None,
        "parts": shares.get((system.name, system.precision)),
    }


def _inputs(setting: Setting, system: System, episode: Episode) -> Inputs:
    """The query graph's inputs of an episode."""
    pairs = [(setting.dataset.image(i), setting.dataset.mask(i, episode.class_id)) for i in episode.supports]
    supports = system.prepare(pairs)
    pixels, _ = prepare_image(setting.dataset.image(episode.query), setting.bundle.manifest.input)
    return {"image": pixels[None], **supports._asdict()}


def _shares(setting: Setting, inputs: Inputs, systems: list[System]) -> dict[tuple[str, str], dict[str, float]]:
    """Shares of the parts, by name and precision of a system; of those whose engine tells."""
    bundle, size, threads = setting.bundle, setting.bundle.manifest.input.size, setting.threads
    model = load_model(bundle, setting.checkpoint)
    upper = upper_modules(model, size)
    found = {("pytorch cached", "fp32"): torch_shares(model, size, inputs, _PROFILED)}
    for system in systems:
        if system.name not in ("openvino", "onnx-cpu") or not isinstance(system, Cached):
            continue
        content = query_file(bundle, "int8" if system.precision == "int8" else "fp32")
        parts = named_parts(content, upper)
        key = (system.name, system.precision)
        if system.name == "onnx-cpu":
            found[key] = onnxruntime_shares(content, inputs, threads, parts, _PROFILED)
        else:
            hint = "f32" if getattr(system.segmenter.engine, "rest", "") == "fp32" else "bf16"
            found[key] = openvino_shares(content, hint, inputs, threads, parts, _PROFILED)
    return found


def query_file(bundle: Bundle, precision: str) -> bytes:
    """The bundle's query graph, as asked for in that precision."""
    entry = next(f for f in bundle.manifest.files if f.role == "query" and f.precision_asked == precision)
    return bundle.read(entry)


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    columns = ["system", "ms", "CoV", "ratio", "equal pixels", "of limit", "backbone", "layer 4", "prior", "head"]
    lines = []
    for row in rows:
        compute = row["latency_ms"]["compute"]
        parts = row["parts"] or {}
        shown = [f"{parts[name]:.0%}" if name in parts else "" for name in columns[-4:]]
        lines.append(
            [
                f"{row['name']} {row['precision']}",
                f"{compute['p50']:.0f}" if compute["p50"] >= 100 else f"{compute['p50']:.1f}",
                f"{compute['cov']:.1%}",
                f"{row['ratio']:.2f}",
                f"{row['equal_pixels']:.3%}",
                f"{row['of_limit']:.0%}" if row["of_limit"] else "",
                *shown,
            ]
        )
    show(title, columns, lines)

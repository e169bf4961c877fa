"""End to end from a photo of 1920 x 1080 pixels: pre-processing, the query graph, and the label map at full size."""

import argparse
from typing import Any

import cv2
import numpy as np
from common import Setting, show, write
from numpy.typing import NDArray

from ntre_deploy.bench.latency import PARTS
from ntre_deploy.bench.pytorch import build_systems
from ntre_deploy.bench.runner import run_bench
from ntre_deploy.bench.systems import Cached, find_checkpoint
from ntre_deploy.data.dataset import DatasetView

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 1920, 1080


class Camera(DatasetView):
    """Another dataset's images, scaled and cut to 1920 x 1080 as a camera would give them."""

    @property
    def name(self) -> str:
        """Of the dataset behind it, and the size."""
        return f"{self._dataset.name} at {WIDTH} x {HEIGHT}"

    def image(self, image_id: str) -> Pixels:
        """uint8 RGB [1080, 1920, 3]."""
        return _cover(self._dataset.image(image_id), cv2.INTER_LINEAR)

    def mask(self, image_id: str, class_id: int) -> Pixels:
        """uint8 [1080, 1920]."""
        return _cover(self._dataset.mask(image_id, class_id), cv2.INTER_NEAREST_EXACT)


def _cover(image: Pixels, method: int) -> Pixels:
    """Scale an image to cover the frame, and cut its middle out."""
    scale = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
    size = (max(WIDTH, round(image.shape[1] * scale)), max(HEIGHT, round(image.shape[0] * scale)))
    large = cv2.resize(image, size, interpolation=method)
    top, left = (large.shape[0] - HEIGHT) // 2, (large.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(large[top : top + HEIGHT, left : left + WIDTH])


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of this command alone."""


def run(setting: Setting, args: argparse.Namespace) -> None:
    """Measure and write; the full network is left out, which no camera waits for."""
    bundle = setting.bundle
    systems, skipped = build_systems(bundle, find_checkpoint(bundle, setting.checkpoint), setting.threads)
    systems = [system for system in systems if isinstance(system, Cached)]
    camera = Camera(setting.dataset)
    episodes = _whole(setting, camera)
    results, _ = run_bench(systems, bundle.manifest.input, camera, episodes, rounds=setting.rounds)
    rows: list[dict[str, Any]] = []
    for system, result in zip(systems, results, strict=True):
        latency = result.queries.summary()
        whole = latency["total"]["p50"]
        rows.append(
            {
                "name": system.name,
                "precision": system.precision,
                "latency_ms": latency,
                "queries_per_second": 1e3 / whole,
                "around_share": 1 - latency["compute"]["p50"] / whole,
            }
        )
    found = {"photo": [HEIGHT, WIDTH], "episodes": episodes.describe(), "skipped": skipped, "systems": rows}
    write(args.out, setting, found)
    lines = [
        [
            f"{row['name']} {row['precision']}",
            *(f"{row['latency_ms'][part]['p50']:.2f}" for part in (*PARTS, "total")),
            f"{row['around_share']:.1%}",
            f"{row['queries_per_second']:.1f}",
        ]
        for row in rows
    ]
    show(f"{WIDTH} x {HEIGHT}, ms", ["system", *PARTS, "total", "pre + post", "per second"], lines)


def _whole(setting: Setting, camera: Camera) -> Any:
    """1-shot episodes whose supports still show their target after the cut."""
    import dataclasses

    drawn = setting.episodes(1)
    shown = [e for e in drawn.episodes if all((camera.mask(i, e.class_id) == 1).any() for i in e.supports)]
    return dataclasses.replace(drawn, episodes=tuple(shown))

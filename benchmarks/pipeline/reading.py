"""Masks from reduced JPEGs against those from whole ones, and both against the truth."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ntre_deploy.data.episodes import sample_episodes, usable_classes
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.runtime.imagefile import Pixels, read_image, read_reduced
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import prepare_reduced
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.segment.run import OVERLAY_SIDE

# draws of the bootstrap over episodes
_DRAWS = 2000


def compare(segmenter: Segmenter, spec: str, count: int, seed: int, side: int, path: Path) -> dict[str, Any]:
    """One-shot episodes whose query is enlarged to `side` pixels, given a sensor's noise and saved as JPEG at `path`.

    Returns:
        `rows`: for each size that is asked for the share of pixels that change, and the change of the mean IoU in
        points with its paired 95 % interval over episodes.
    """
    data = open_dataset(spec)
    drawn = sample_episodes(data, usable_classes(data, data.class_names, 1), 1, count, seed)
    asked = (OVERLAY_SIDE, 2 * segmenter.spec.size + 1)
    changed: dict[int, list[float]] = {least: [] for least in asked}
    ious: dict[int, list[float]] = {least: [] for least in asked}
    factors: dict[int, int] = {}
    whole_ious: list[float] = []
    for number, episode in enumerate(drawn.episodes):
        shots = [(data.image(i), data.mask(i, episode.class_id)) for i in episode.supports]
        memory = segmenter.encode_episode(shots)
        _save_large(path, data.image(episode.query), side, seed + number)
        truth = data.mask(episode.query, episode.class_id)

        def labelled(pixels: Pixels, size: tuple[int, int], memory: Any = memory) -> Pixels:
            prepared, box = prepare_reduced(pixels, size, segmenter.spec)
            return label_map(segmenter.query(prepared, memory), box)

        image = read_image(path)
        whole = labelled(image, (image.shape[0], image.shape[1]))
        whole_ious.append(_iou(whole, truth))
        for least in asked:
            pixels, size = read_reduced(path, least)
            factors[least] = round(side / max(pixels.shape))
            labels = labelled(pixels, size)
            changed[least].append(float((labels != whole).mean()))
            ious[least].append(_iou(labels, truth))
    rng = np.random.default_rng(seed)
    rows = []
    for least in asked:
        gain = 100 * (np.array(ious[least]) - np.array(whole_ious))
        means = gain[rng.integers(0, len(gain), (_DRAWS, len(gain)))].mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        rows.append(
            {
                "least": least,
                "factor": factors[least],
                "changed": float(np.mean(changed[least])),
                "most_changed": max(changed[least]),
                "miou": 100 * float(np.mean(ious[least])),
                "miou_change": float(gain.mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    return {
        "episodes": drawn.describe(),
        "side": side,
        "whole_miou": 100 * float(np.mean(whole_ious)),
        "rows": rows,
    }


def _save_large(path: Path, image: Pixels, side: int, seed: int) -> None:
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    large += np.random.default_rng(seed).normal(0, 4, (*large.shape[:2], 1)).astype(np.float32)
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def _iou(labels: Pixels, truth: Pixels) -> float:
    small = cv2.resize(labels, truth.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    valid = truth != 255
    target, found = (truth == 1) & valid, (small == 1) & valid
    union = int((target | found).sum())
    return float((target & found).sum()) / union if union else 1.0

"""Episodes of a dataset: their queries segmented, beside what is right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.files import plain_name
from ntre_deploy.runtime.imagefile import Pixels, write_jpeg, write_png
from ntre_deploy.runtime.overlay import contact_sheet, overlay, palette
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.segment.outputs import photo_outputs
from ntre_deploy.training.metrics import Score

SHEET = "sheet.png"
_ROWS = 12


def segment_episodes(
    segmenter: Segmenter, dataset: Dataset, episodes: EpisodeSet, out: Path, advance: Callable[[], None]
) -> tuple[list[dict[str, Any]], float]:
    """Segment the queries; writes label maps, overlays and a sheet with the ground truth.

    Returns:
        for each episode what was written, and the mIoU over all.

    Raises:
        InputError: an image that cannot be read, or an output that cannot be written.
        EngineError: the engine failed.
    """
    results, score = [], Score()
    rows: list[list[Pixels]] = []
    for number, episode in enumerate(episodes.episodes):
        pairs = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
        query, truth = dataset.image(episode.query), dataset.mask(episode.query, episode.class_id)
        labels = segmenter.segment(query, segmenter.encode_episode(pairs, episode.class_name))
        score.add(episode.class_id, labels, truth)
        mask, drawn = photo_outputs(out, Path(plain_name(f"{number:03d}_{episode.class_name}") + ".png"))
        write_png(mask, labels, palette(1))
        write_jpeg(drawn, overlay(query, labels))
        written = {"mask": str(mask), "overlay": str(drawn)}
        results.append({"query": episode.query, "class": episode.class_name} | written)
        if len(rows) < _ROWS:
            image, target = pairs[0]
            shown = [overlay(image, (target == 1).astype(np.uint8)), query, overlay(query, labels)]
            rows.append([*shown, overlay(query, (truth == 1).astype(np.uint8))])
        advance()
    write_png(out / SHEET, contact_sheet(rows, ("support", "query", "segmented", "ground truth")))
    return results, score.miou

"""The threshold of a network's final decision, set for the best mIoU over episodes: two numbers, no training."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import EpisodeSet
from ntre_deploy.errors import InputError
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.runtime.labels import back_map
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.masks import IGNORE
from ntre_deploy.training.runs import StoredFeatures

Float = NDArray[np.float32]

# longer side in pixels at which a margin meets its label: the best threshold is the same at any
_SIDE = 120
_BINS = 400


def calibrate_threshold(
    model: FewShotNetwork,
    dataset: Dataset,
    episodes: EpisodeSet,
    progress: Callable[[], None] = lambda: None,
) -> float:
    """Shift the bias of the final logits to the threshold with the best mIoU.

    Args:
        model: changed in place.
        dataset: best a `CachedDataset`: each photo is then encoded once.
        episodes: of classes that the model may know: with the ones it is judged by, the figure would flatter it.
        progress: called after every episode.

    Returns:
        The mIoU at that threshold, in [0, 1].

    Raises:
        InputError: an image or a mask cannot be read, or the network tells no places apart.
    """
    stored = StoredFeatures(model)
    margins: list[Float] = []
    targets: list[NDArray[np.bool_]] = []
    for episode in episodes.episodes:
        shots = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
        logits, box = stored.logits(model, dataset.image(episode.query), shots)
        margin, label = _small(logits[0, 1] - logits[0, 0], dataset.mask(episode.query, episode.class_id), box)
        valid = label != IGNORE
        margins.append(margin[valid])
        targets.append(label[valid] == 1)
        progress()
    classes = np.array([e.class_id for e in episodes.episodes])
    edges = np.unique(np.quantile(np.concatenate(margins), np.linspace(0, 1, _BINS + 1)))[1:-1]
    if not len(edges):
        raise InputError("All margins are equal, so no threshold tells the target; take another checkpoint.")
    scores = []
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        margin, target = (np.concatenate([values[k] for k in own]) for values in (margins, targets))
        # pixels above each threshold
        hits, claimed = (len(v) - np.searchsorted(np.sort(v), edges, "right") for v in (margin[target], margin))
        scores.append(hits / np.maximum(target.sum() + claimed - hits, 1))
    means = np.mean(scores, axis=0)
    best = int(means.argmax())
    with torch.no_grad():
        model.final_bias[1] -= float(edges[best])
    return float(means[best])


def _small(margin: Float, label: NDArray[np.uint8], box: Letterbox) -> tuple[Float, NDArray[np.uint8]]:
    """A margin [h, w] and its label [H, W] at the same few pixels of the image, spread evenly."""
    step = max(1, max(label.shape) // _SIDE)
    rows = back_map(box.height, box.inner_height, box.size, margin.shape[0])[step // 2 :: step]
    columns = back_map(box.width, box.inner_width, box.size, margin.shape[1])[step // 2 :: step]
    small = np.asarray(rows @ margin @ columns.T, np.float32)
    return small, label[step // 2 :: step, step // 2 :: step]

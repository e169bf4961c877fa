"""What an export keeps of PyTorch in the bundle: the self-test that each load runs, and the reference set of the bench.

Both are episodes in small, so that they weigh little, and what the training graph in fp32 makes of them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import sample_episodes, usable_classes
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import InputError
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.export.verify import Case, dataset_cases
from ntre_deploy.runtime.bundle import SelfTest
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import prepare_mask
from ntre_deploy.runtime.reference import ReferenceSet, StoredEpisode

# longer side of stored pictures
SIDE = 160
# of a reference set
EPISODES = 8
# of the largest margin of a self-test without inner decisions: what 16 bits do not move across a tie
_FAR = 0.15
# share of the input that the target of the self-test covers at least
_LEAST_TARGET = 0.02

Pixels = NDArray[np.uint8]


def usable(dataset: Dataset) -> list[int]:
    """Classes that episodes of a reference set can be drawn from.

    Raises:
        InputError: there is none.
    """
    classes = usable_classes(dataset, dataset.class_names, 1)
    if not classes:
        raise InputError(f"No class of {dataset.name} has the two images that a reference set needs; take another.")
    return classes


def make_reference(network: FullNetwork, dataset: Dataset, count: int, seed: int) -> ReferenceSet:
    """Draw one-shot episodes, and run the training graph on them.

    Raises:
        InputError: no class has two images, or an image cannot be read.
    """
    drawn = sample_episodes(dataset, usable(dataset), 1, count, seed)
    episodes = []
    for episode in drawn.episodes:
        (image, mask), (query, truth) = (
            (_shrink(dataset.image(i), cv2.INTER_AREA), _shrink(dataset.mask(i, episode.class_id), cv2.INTER_NEAREST))
            for i in (*episode.supports, episode.query)
        )
        logits, box = network.logits(query, network.prepare([(image, mask)]))
        labels = label_map(logits, box)
        shots = ((image, mask),)
        episodes.append(StoredEpisode(episode.class_id, episode.class_name, query, shots, truth, labels, logits[0]))
    return ReferenceSet(dataset.name, 1, seed, tuple(episodes))


def make_self_test(reference: FullNetwork, cases: Sequence[Case], seed: int) -> SelfTest:
    """A small episode and what the training graph makes of it.

    Of the cases' first supports and a few rendered scenes, the one is taken whose decisions are farthest from a tie,
    so that another processor does not decide one of them otherwise.
    """
    # other ones than the scenes that verification takes where it is given no dataset
    rendered = dataset_cases(ProceduralDataset(seed), seed + 10)
    best: tuple[float, SelfTest] | None = None
    for case in [*cases, *rendered]:
        image, mask = case.shots[0]
        query, image = _shrink(case.query, cv2.INTER_AREA), _shrink(image, cv2.INTER_AREA)
        mask = _shrink((mask == 1).astype(np.uint8), cv2.INTER_NEAREST)
        if prepare_mask(mask, reference.spec).mean() < _LEAST_TARGET:
            continue
        prediction, box = reference.predict(query, reference.prepare([(image, mask)]))
        if not prediction.supports[0].keys.any():
            continue  # a coarse layer 4 may look past a target, and the runtime refuses such a support
        logits = prediction.logits.numpy()
        labels = label_map(logits, box)
        decisions = [*prediction.initial_logits, *([] if prediction.bg_logits is None else [prediction.bg_logits])]
        margins = [((x[:, 1] - x[:, 0]).abs().min() / x.abs().max().clamp_min(1e-6)).item() for x in decisions]
        # both classes in the mask come first: a mask of one class says little
        rank = (1.0 if 0 < labels.mean() < 1 else 0.0) + min(margins, default=_sure(logits))
        if best is None or rank > best[0]:
            best = rank, SelfTest(query, image, mask, labels, logits[0])
    assert best is not None, "rendered scenes have targets that are large enough"
    return best[1]


def _sure(logits: NDArray[np.float32]) -> float:
    """Share of places of logits [1, 2, h, w] that are far from a tie."""
    margin = np.abs(logits[0, 1] - logits[0, 0])
    return float((margin > _FAR * margin.max()).mean())


def _shrink(picture: Pixels, method: int) -> Pixels:
    scale = SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)

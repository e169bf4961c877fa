"""Verification at export time: the written files against the training graph, on random and on real inputs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import sample_episodes, usable_classes
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.masks import mask_iou
from ntre_deploy.runtime.segmenter import Segmenter, logits_error

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Tolerance(NamedTuple):
    """What an exported graph may differ from the training graph.

    Masks decide.  The network feeds two argmax decisions back into its features, so one tied pixel that another
    order of summing decides otherwise moves every logit by some hundredths; the bound on logits only catches what is
    grossly wrong where a mask has a single class.
    """

    pixels: float  # least share of equal pixels at the image's own size
    logits: float  # most of max |a - b| / max |b|
    noise: float  # as `pixels`, on noise: a trained network is undecided there, and rounding decides for it


# kind of the cases of noise
NOISE = "random"
TOLERANCES = {
    "fp32": Tolerance(0.999, 0.05, 0.999),
    "fp16": Tolerance(0.98, 0.2, 0.9),
    "bf16": Tolerance(0.97, 0.3, 0.8),
    # only against what is grossly wrong: `quantise.ALLOWED` judges int8 and fp8, over more episodes
    "int8": Tolerance(0.9, 1.0, 0.0),
    "fp8": Tolerance(0.9, 1.0, 0.0),
}


class Case(NamedTuple):
    """One episode with its arrays; `kind` is `random` or the name of the dataset."""

    kind: str
    query: Pixels
    shots: list[tuple[Pixels, Pixels]]


@dataclass(frozen=True)
class Difference:
    """How far one case is off.

    Attributes:
        kind: `random` or the name of the dataset.
        shots: number of supports.
        pixels: share of equal labels at the image's own size.
        mask_iou: of the two masks.
        logits: max |a - b| / max |b| over the logits at feature resolution.
    """

    kind: str
    shots: int
    pixels: float
    mask_iou: float
    logits: float


def random_cases(seed: int, side: int = 200) -> list[Case]:
    """Noise with random masks, 1 and 2 shots: nothing like what the network was trained on."""
    rng = np.random.default_rng(seed)

    def noise(height: int, width: int) -> Pixels:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    def blob(height: int, width: int) -> Pixels:
        y, x = np.mgrid[0:height, 0:width]
        cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
        radius = rng.uniform(0.2, 0.4) * min(height, width)
        return np.asarray((y - cy) ** 2 + (x - cx) ** 2 < radius**2, np.uint8)

    cases = []
    for shots in (1, 2):
        supports = [(noise(side, side + 40), blob(side, side + 40)) for _ in range(shots)]
        cases.append(Case(NOISE, noise(side + 40, side), supports))
    return cases


def dataset_cases(dataset: Dataset, seed: int) -> list[Case]:
    """Episodes of a dataset with 1 and 2 shots, the second where a class has three images or more.

    Raises:
        InputError: no class has two images.
    """
    cases = []
    for shots in (1, 2):
        classes = usable_classes(dataset, dataset.class_names, shots)
        if not classes:
            continue
        for episode in sample_episodes(dataset, classes, shots, 1, seed + shots).episodes:
            supports = [(dataset.image(i), dataset.mask(i, episode.class_id)) for i in episode.supports]
            cases.append(Case(dataset.name, dataset.image(episode.query), supports))
    if not cases:
        raise InputError(
            f"No class of {dataset.name} has the two images that verification needs; take another dataset."
        )
    return cases


def compare(segmenter: Segmenter, reference: FullNetwork, case: Case) -> Difference:
    """Run one case through an engine and through the training graph."""
    wanted, box = reference.logits(case.query, reference.prepare(case.shots))
    got, _ = segmenter.logits(case.query, segmenter.encode_episode(case.shots, case.kind))
    ours, theirs = label_map(got, box), label_map(wanted, box)
    return Difference(
        kind=case.kind,
        shots=len(case.shots),
        pixels=float((ours == theirs).mean()),
        mask_iou=mask_iou(ours, theirs),
        logits=logits_error(got, wanted),
    )


def verify(segmenter: Segmenter, reference: FullNetwork, cases: Sequence[Case]) -> dict[str, Any]:
    """Compare all cases and judge them by the engine's precision.

    Returns:
        What the manifest keeps: engine, precision, tolerances and the difference of every case (JSON values).

    Raises:
        GateError: a case is off by more than the tolerance; names the figures.
    """
    precision = segmenter.engine.precision
    tolerance = TOLERANCES.get(precision, TOLERANCES["fp16"])
    differences = [compare(segmenter, reference, case) for case in cases]
    for d in differences:
        demanded = tolerance.noise if d.kind == NOISE else tolerance.pixels
        if not (d.pixels >= demanded and d.logits <= tolerance.logits):  # NaN fails
            raise GateError(
                f"The exported {precision} graph differs from PyTorch on {d.kind} input ({d.shots} shots): "
                f"{d.pixels:.2%} of the pixels equal ({demanded:.1%} demanded), logits off by {d.logits:.2g} "
                f"(at most {tolerance.logits:.2g}). No bundle was written; please report this with the checkpoint."
            )
    return {
        "engine": segmenter.engine.name,
        "precision": precision,
        "tolerance": tolerance._asdict(),
        "cases": [asdict(d) for d in differences],
    }

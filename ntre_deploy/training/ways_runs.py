"""What `evaluate_ways` can run: the training graph of a checkpoint, and any engine behind a `Segmenter`.

The training graph knows one class at a time: the logits of N classes are N runs of it, joined by the label map.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.calibration import NEUTRAL, Calibration, calibrated, fit, responses
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import calibrations
from ntre_deploy.training.evaluator import Pixels, Shots
from ntre_deploy.training.ways import WaysRun

if TYPE_CHECKING:
    from ntre_deploy.export.torch_engines import FullNetwork

Float = NDArray[np.float32]


def network_ways(network: "FullNetwork", calibrate: bool) -> WaysRun:
    """The training graph, supports and query of each class through the whole network; arrays as `WaysRun` says."""

    def run(query: Pixels, classes: Sequence[Shots]) -> tuple[Pixels, Sequence[Pixels]]:
        pixels, box = network.prepare_image(query, network.spec)
        logits = np.concatenate([network.run(pixels, network.prepare(shots)) for shots in classes])
        if not np.isfinite(logits).all():
            raise InputError("The network gave NaN or infinity; take an earlier checkpoint.")
        found = network_calibrations(network, classes) if calibrate else [NEUTRAL] * len(classes)
        return _labels(logits, box, found)

    return run


def network_calibrations(network: "FullNetwork", classes: Sequence[Shots]) -> list[Calibration]:
    """Calibration of each class from the training graph; N runs of it for each shot; arrays as in `Shots`."""
    if len(classes) < 2:
        return [NEUTRAL] * len(classes)
    whole = [network.prepare(shots) for shots in classes]

    def logits(d: int, k: int) -> Float:
        pixels, _ = network.prepare_image(classes[d][k][0], network.spec)
        others = [shot for j, shot in enumerate(classes[d]) if j != k or len(classes[d]) == 1]
        present = [network.prepare(others) if c == d else support for c, support in enumerate(whole)]
        return np.concatenate([network.run(pixels, support) for support in present])

    targets = [[network.prepare_mask(mask, network.spec) for _, mask in shots] for shots in classes]
    return fit(responses(targets, logits))


def segmenter_ways(segmenter: Segmenter, calibrate: bool) -> WaysRun:
    """The supports are encoded and the query segmented by the segmenter's engine; arrays as `WaysRun` says."""

    def run(query: Pixels, classes: Sequence[Shots]) -> tuple[Pixels, Sequence[Pixels]]:
        names = [f"class {n}" for n in range(1, len(classes) + 1)]
        memories = segmenter.encode_episodes(classes, names, calibrate=calibrate)
        logits, box = segmenter.logits(query, memories, calibrate=False)
        return _labels(logits, box, calibrations(memories))

    return run


def _labels(logits: Float, box: Letterbox, found: Sequence[Calibration]) -> tuple[Pixels, list[Pixels]]:
    """The label map of all classes, and the mask of each alone, which no calibration touches."""
    return label_map(calibrated(logits, found), box), [label_map(one[None], box) for one in logits]

"""What `evaluate` can run: the training graph of a checkpoint, and any engine behind a `Segmenter`.

Both go through the same pre- and post-processing (`ntre_deploy.runtime.letterbox` and `labels`), which is the `exact`
protocol; `released` and `released_network` have the other one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError
from ntre_deploy.model.config import input_spec
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.training.evaluator import Pixels, Run, Shots, Stages

if TYPE_CHECKING:
    from torch import Tensor

    from ntre_deploy.export.torch_engines import FullNetwork
    from ntre_deploy.model.network import Features, FewShotNetwork


class NetworkRun:
    """The training graph: supports and query through the whole network.

    Args:
        network: prepares images and computes logits.
        labels: logits [1, 2, h, w] at feature resolution -> uint8 labels at the query's own size; the way back that
            fits the network's preparation.
    """

    def __init__(
        self, network: "FullNetwork", labels: Callable[[NDArray[np.float32], Letterbox], Pixels] = label_map
    ) -> None:
        self.network = network
        self._labels = labels

    def __call__(self, query: Pixels, shots: Shots) -> Pixels:
        """See `Run`.

        Raises:
            InputError: the network gave NaN or infinity.
        """
        logits, box = self.network.logits(query, self.network.prepare(shots))
        if not np.isfinite(logits).all():
            raise InputError("The network gave NaN or infinity; take an earlier checkpoint.")
        return self._labels(logits, box)

    def stages(self, query: Pixels, shots: Shots) -> Stages:
        """BG map, DO map and initial prediction (the paper's figure 5), uint8 [H, W], resized as the final logits."""
        prediction, box = self.network.predict(query, self.network.prepare(shots))
        background = prediction.bg_logits
        if not prediction.do_masks:
            return Stages(None if background is None else self._mask(background, box), None, None)
        assert background is not None
        # with several stages, the largest bin shows the most
        widest = max(range(len(prediction.do_masks)), key=lambda i: int(prediction.do_masks[i].shape[-1]))
        distracting = prediction.do_masks[widest]
        return Stages(
            background=self._mask(background, box),
            distracting=self._labels(_pair(_array(distracting)), box),
            initial=self._mask(prediction.initial_logits[widest], box),
        )

    def _mask(self, logits: "Tensor", box: Letterbox) -> Pixels:
        return self._labels(_array(logits), box)


class StoredFeatures:
    """The features of a frozen backbone for photos that are run again and again, computed once for all heads on it.

    Photos are known by the identity of their arrays, which a `CachedDataset` keeps; all of them stay in memory.
    """

    def __init__(self, model: "FewShotNetwork") -> None:
        self.model, self.spec = model.eval(), input_spec(model.config)
        # with the photo itself, so that no other array gets its identity
        self._kept: dict[int, tuple[Pixels, Features, Letterbox]] = {}

    def of(self, photo: Pixels) -> "tuple[Features, Letterbox]":
        """Features [1, C, h, w] of a uint8 photo [H, W, 3], and its geometry."""
        import torch

        if id(photo) not in self._kept:
            pixels, box = prepare_image(photo, self.spec)
            with torch.inference_mode():
                features = self.model.query_features(torch.from_numpy(pixels)[None])
            self._kept[id(photo)] = photo, features, box
        _, features, box = self._kept[id(photo)]
        return features, box

    def logits(self, model: "FewShotNetwork", query: Pixels, shots: Shots) -> tuple[NDArray[np.float32], Letterbox]:
        """Logits [1, 2, h, w] of a model with this backbone, and the query's geometry.

        Raises:
            InputError: the network gave NaN or infinity.
        """
        import torch

        with torch.inference_mode():
            features, box = self.of(query)
            supports = []
            for image, mask in shots:
                label = torch.from_numpy(prepare_mask(mask, self.spec))[None]
                supports.append(model.encode_support(model.as_support(self.of(image)[0], label), label))
            logits = _array(model.decode(model.encode_query(features), supports).logits)
        if not np.isfinite(logits).all():
            raise InputError("The network gave NaN or infinity; take an earlier checkpoint.")
        return logits, box

    def run(self, model: "FewShotNetwork") -> Run:
        """What `evaluate` runs: a model with this backbone; arrays as in `Run`."""
        model.eval()
        return lambda query, shots: label_map(*self.logits(model, query, shots))


def segmenter_run(segmenter: Segmenter) -> Run:
    """The supports are encoded and the query segmented by the segmenter's engine; arrays as `Run` says.

    A support whose target vanishes at the network's resolution is run, as the training graph does, and not refused.
    """

    def run(query: Pixels, shots: Shots) -> Pixels:
        return segmenter.segment(query, segmenter.encode_episode(shots))

    return run


def _array(values: "Tensor") -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def _pair(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask [1, 1, b, b] of 0 and 1 as logits [1, 2, b, b] that change sign half-way between the two."""
    return np.concatenate([np.full_like(mask, 0.5), mask], axis=1)

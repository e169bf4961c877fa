"""The `released` protocol on the training graph, with torch's own resizes; `released` tells what the protocol is."""

import numpy as np
import torch
from numpy.typing import NDArray

from ntre_deploy.export.torch_engines import FullNetwork, PreparedSupport
from ntre_deploy.model.matching import resize
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox
from ntre_deploy.training.evaluator import Pixels, Shots
from ntre_deploy.training.released import prepare_image, prepare_mask
from ntre_deploy.training.runs import NetworkRun

Float = NDArray[np.float32]


class ReleasedNetwork(FullNetwork):
    """The training graph on every query, behind the released preparation."""

    prepare_image = staticmethod(prepare_image)
    prepare_mask = staticmethod(prepare_mask)

    def prepare(self, shots: Shots) -> PreparedSupport:
        """Prepare uint8 images [H, W, 3] and masks [H, W] (1 is the target).

        The last shot comes first, as in the released loader: the order in which the network sums over the shots.
        """
        return super().prepare(shots[::-1])


def label_map(logits: Float, box: Letterbox) -> Pixels:
    """Logits [1, 2, h, w] at feature resolution to the query's part of the label square, uint8 [H, W] of 0 and 1.

    Source: released code, the end of the network's `forward` and `validate`.
    """
    side = max(box.height, box.width)
    square = resize(resize(torch.from_numpy(logits), (box.size, box.size)), (side, side))
    labels: Pixels = square.argmax(1)[0, : box.height, : box.width].to(torch.uint8).numpy()
    return labels


def released_run(model: FewShotNetwork, spec: InputSpec) -> NetworkRun:
    """The training graph under the released protocol."""
    return NetworkRun(ReleasedNetwork(model, spec), label_map)

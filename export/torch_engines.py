"""PyTorch as an engine: the full training network per query, and the deploy graphs run eagerly.

Both are baselines: the first is what the released code does for every query, the second is the same rewrite as the
exported files, so that a reader can tell the split's share from the engine's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntre_deploy.export.graphs import query_graph, support_graph
from ntre_deploy.model.network import FewShotNetwork, Prediction
from ntre_deploy.runtime.image import InputSpec, Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class PreparedSupport(NamedTuple):
    """K shots ready for the network: images [1, K, 3, H, W], masks [1, K, H, W]."""

    images: Tensor
    masks: Tensor


def as_tensors(supports: StackedSupports, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes [N, C], keys [P, L, D] in the `dtype` of a query graph, and chunks [N, K, Q], of the host."""
    prototypes, keys, chunks = map(torch.from_numpy, supports)
    return prototypes, keys.to(dtype), chunks


class FullNetwork:
    """The training graph on every query: K supports and the query through the whole network, where the model lies."""

    # what another protocol puts in their places
    prepare_image = staticmethod(prepare_image)
    prepare_mask = staticmethod(prepare_mask)

    def __init__(self, model: FewShotNetwork, spec: InputSpec) -> None:
        self.model = model.eval()
        self.spec = spec

    def prepare(self, shots: Sequence[tuple[Pixels, Pixels]]) -> PreparedSupport:
        """Letterbox and normalise uint8 images [H, W, 3] and masks [H, W] (1 is the target)."""
        images = np.stack([self.prepare_image(image, self.spec)[0] for image, _ in shots])
        masks = np.stack([self.prepare_mask(mask, self.spec) for _, mask in shots])
        return PreparedSupport(torch.from_numpy(images)[None], torch.from_numpy(masks)[None])

    def run(self, pixels: Float, support: PreparedSupport) -> Float:
        """Prepared query [3, H, W] -> logits [1, 2, h, w]."""
        logits: Float = self._forward(pixels, support).logits.float().cpu().numpy()
        return logits

    def logits(self, image: Pixels, support: PreparedSupport) -> tuple[Float, Letterbox]:
        """uint8 image [H, W, 3] -> logits [1, 2, h, w] at feature resolution, and its geometry."""
        pixels, box = self.prepare_image(image, self.spec)
        return self.run(pixels, support), box

    def predict(self, image: Pixels, support: PreparedSupport) -> tuple[Prediction, Letterbox]:
        """uint8 image [H, W, 3] -> everything that the network computes on the way, and the image's geometry."""
        pixels, box = self.prepare_image(image, self.spec)
        return self._forward(pixels, support), box

    def _forward(self, pixels: Float, support: PreparedSupport) -> Prediction:
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            query = torch.from_numpy(pixels)[None].to(device)
            prediction: Prediction = self.model(query, *(x.to(device) for x in support))
        return prediction


class TorchEngine:
    """The deploy graphs in PyTorch eager mode, behind the runtime's `Engine` interface."""

    name = "torch"

    def __init__(self, model: FewShotNetwork, input_size: int, dtype: torch.dtype = torch.float32) -> None:
        self.precision = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
        self._support = support_graph(model, input_size, dtype)
        self._query = query_graph(model, input_size, dtype)

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """See `Engine.support`."""
        with torch.inference_mode():
            prototype, keys = self._support(torch.from_numpy(image), torch.from_numpy(mask))
        return prototype.numpy(), keys.numpy()

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        with torch.inference_mode():
            logits: Tensor = self._query(torch.from_numpy(image), *as_tensors(supports, self._query.dtype))
        return logits.numpy()

    def clone(self) -> "TorchEngine":
        """Modules in inference mode are safe to share."""
        return self

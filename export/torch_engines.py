"""PyTorch as an engine: the full training network per query, and the deploy graphs run eagerly.

Both are baselines: the first is what the released code does for every query, the second is the same rewrite as the
exported files, so that a reader can tell the split's share from the engine's.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntre_deploy.export.graphs import query_graph, support_graph
from ntre_deploy.model.network import FewShotNetwork, Prediction
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.stacked import StackedSupports

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Mode(NamedTuple):
    """A way in which PyTorch computes.

    Attributes:
        precision: as reports tell it.
        dtype: of the heavy parts; the full network gets there by autocast.
        tf32: whether products and convolutions in fp32 may round to TF32, which cuDNN does by default.
    """

    precision: str
    dtype: torch.dtype
    tf32: bool = False

    @property
    def half(self) -> bool:
        """Whether the heavy parts are 16 bits wide; on a GPU they run in channels_last then."""
        return self.dtype != torch.float32

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """A block in which it is the mode of the process: the switches for TF32 are global."""
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        before = products.allow_tf32, convolutions.allow_tf32
        products.allow_tf32 = convolutions.allow_tf32 = self.tf32
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before


FP32, TF32 = Mode("fp32", torch.float32), Mode("tf32", torch.float32, tf32=True)
FP16, BF16 = Mode("fp16", torch.float16), Mode("bf16", torch.bfloat16)
MODES = {mode.precision: mode for mode in (FP32, TF32, FP16, BF16)}


class PreparedSupport(NamedTuple):
    """K shots ready for the network: images [1, K, 3, H, W], masks [1, K, H, W]."""

    images: Tensor
    masks: Tensor


def as_tensors(supports: StackedSupports, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes [N, C], keys [P, L, D] in the `dtype` of a query graph, and chunks [N, K, Q], of the host."""
    prototypes, keys, chunks = map(torch.from_numpy, supports)
    return prototypes, keys.to(dtype), chunks


class FullNetwork:
    """The training graph on every query: K supports and the query through the whole network, where the model lies.

    Args:
        mode: 16 bits are by autocast: whole in fp16, the training graph gives NaN.
        compiled: by torch.compile.
    """

    # what another protocol puts in their places
    prepare_image = staticmethod(prepare_image)
    prepare_mask = staticmethod(prepare_mask)

    def __init__(self, model: FewShotNetwork, spec: InputSpec, mode: Mode = FP32, *, compiled: bool = False) -> None:
        self.model = model.eval()
        self.spec = spec
        self.mode = mode
        self._device = next(model.parameters()).device
        self._call: Any = torch.compile(self.model) if compiled else self.model
        self._clock = _Clock(self._device)

    @property
    def transfer_ms(self) -> tuple[float, float] | None:
        """Milliseconds that the last `run` spent on the way to a GPU and back; None on the CPU."""
        return self._clock.transfers

    def prepare(self, shots: Sequence[tuple[Pixels, Pixels]]) -> PreparedSupport:
        """Letterbox and normalise uint8 images [H, W, 3] and masks [H, W] (1 is the target)."""
        images = np.stack([self.prepare_image(image, self.spec)[0] for image, _ in shots])
        masks = np.stack([self.prepare_mask(mask, self.spec) for _, mask in shots])
        there = (torch.from_numpy(array)[None].to(self._device) for array in (images, masks))
        return PreparedSupport(*there)

    def run(self, pixels: Float, support: PreparedSupport) -> Float:
        """Prepared query [3, H, W] -> logits [1, 2, h, w]."""
        self._clock.start()
        query = self._upload(pixels)
        self._clock.mark()
        logits = self._forward(query, support).logits
        self._clock.mark()
        found: Float = logits.float().cpu().numpy()
        self._clock.mark()
        return found

    def logits(self, image: Pixels, support: PreparedSupport) -> tuple[Float, Letterbox]:
        """uint8 image [H, W, 3] -> logits [1, 2, h, w] at feature resolution, and its geometry."""
        pixels, box = self.prepare_image(image, self.spec)
        return self.run(pixels, support), box

    def predict(self, image: Pixels, support: PreparedSupport) -> tuple[Prediction, Letterbox]:
        """uint8 image [H, W, 3] -> everything that the network computes on the way, and the image's geometry."""
        pixels, box = self.prepare_image(image, self.spec)
        return self._forward(self._upload(pixels), support), box

    def _upload(self, pixels: Float) -> Tensor:
        return torch.from_numpy(pixels)[None].to(self._device)

    def _forward(self, query: Tensor, support: PreparedSupport) -> Prediction:
        autocast = torch.autocast(self._device.type, self.mode.dtype, enabled=self.mode.half)
        with torch.inference_mode(), self.mode.chosen(), autocast:
            prediction: Prediction = self._call(query, *(x.to(self._device) for x in support))
        return prediction


class TorchEngine:
    """The deploy graphs in PyTorch, behind the runtime's `Engine` interface.

    Args:
        mode: the graphs are made in its type.
        device: such as `cuda`.
        compiled: the query graph by torch.compile.
    """

    name = "torch"

    def __init__(
        self,
        model: FewShotNetwork,
        input_size: int,
        mode: Mode = FP32,
        *,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        self.precision = mode.precision
        self._mode, self._device = mode, torch.device(device)
        layout = torch.channels_last if mode.half and device != "cpu" else torch.preserve_format
        graphs = (make(model, input_size, mode.dtype).to(device) for make in (support_graph, query_graph))
        # torch's stubs do not know the type of a module in another layout
        self._support, self._query = (graph.to(memory_format=layout) for graph in graphs)  # type: ignore[call-overload]
        self._call: Any = torch.compile(self._query) if compiled else self._query
        self._clock = _Clock(self._device)

    @property
    def transfer_ms(self) -> tuple[float, float] | None:
        """Milliseconds that the last `query` spent on the way to a GPU and back; None on the CPU."""
        return self._clock.transfers

    def support(self, image: Float, mask: Float) -> tuple[Float, Float]:
        """See `Engine.support`."""
        with torch.inference_mode(), self._mode.chosen():
            prototype, keys = self._support(*(torch.from_numpy(a).to(self._device) for a in (image, mask)))
        return prototype.cpu().numpy(), keys.cpu().numpy()

    def query(self, image: Float, supports: StackedSupports) -> Float:
        """See `Engine.query`."""
        self._clock.start()
        pixels, given = torch.from_numpy(image).to(self._device), self._there(supports)
        self._clock.mark()
        with torch.inference_mode(), self._mode.chosen():
            logits: Tensor = self._call(pixels, *given)
        self._clock.mark()
        found: Float = logits.cpu().numpy()
        self._clock.mark()
        return found

    def keep(self, supports: StackedSupports) -> StackedSupports:
        """Supports as tensors on a GPU, once for all queries that use them; on the CPU arrays are read in place."""
        return supports if self._device.type == "cpu" else self._there(supports)

    def _there(self, supports: StackedSupports) -> StackedSupports:
        if isinstance(supports.keys, Tensor):
            return supports
        there = (tensor.to(self._device) for tensor in as_tensors(supports, self._mode.dtype))
        return StackedSupports(*there)

    def clone(self) -> "TorchEngine":
        """Modules in inference mode are safe to share."""
        return self


# when the way to the GPU begins and ends, and the computation and the way back end
_MARKS = 4


class _Clock:
    """Times the ways to a GPU and back; on the CPU there are none, and nothing is waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []

    def start(self) -> None:
        """The way to the GPU begins; `mark` it, the computation and the way back as they end."""
        self._times.clear()
        self.mark()

    def mark(self) -> None:
        """Something has ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._times.append(time.perf_counter())

    @property
    def transfers(self) -> tuple[float, float] | None:
        """Milliseconds of the ways there and back; None on the CPU, and of what has not ended."""
        if len(self._times) < _MARKS:
            return None
        begun, arrived, computed, done = self._times
        return 1e3 * (arrived - begun), 1e3 * (done - computed)

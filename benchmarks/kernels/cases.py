"""One case per kernel and size: the kernel, what PyTorch does by itself, and whether the two agree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import baselines
import torch
from torch import Tensor

from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox

# of ResNet-50 at 473
FEATURE = 60


@dataclass(frozen=True)
class Case:
    """`kernel` launches on a stream and writes `out`; `baseline` returns a new tensor, made by PyTorch."""

    name: str
    sizes: dict[str, int]
    kernel: Callable[[int], None]
    baseline: Callable[[], Tensor]
    out: Tensor
    tolerance: float

    def disagreement(self) -> float:
        """Share of elements that differ by more than the tolerance."""
        expected = self.baseline().float().reshape(self.out.shape)
        return float(((self.out.float() - expected).abs() > self.tolerance).float().mean())


def all_cases(kernels: Kernels, device: str) -> Iterator[Case]:
    """The sizes of ResNet-50 at 473: photos of three sizes, 1 and 10 classes."""
    torch.manual_seed(0)
    for height, width in ((480, 640), (1080, 1920), (3000, 4000)):
        yield prepare_case(kernels, device, height, width)
    for height, width in ((480, 640), (1080, 1920)):
        for classes in (1, 10):
            yield labels_case(kernels, device, height, width, classes)


def prepare_case(kernels: Kernels, device: str, height: int, width: int) -> Case:
    spec = InputSpec(473)
    box = Letterbox.fit(height, width, spec.size)
    # smooth: PyTorch's antialiasing weighs by a triangle, OpenCV's by area, and they agree where pixels are alike
    ramp = torch.linspace(0, 6, height)[:, None, None] + torch.linspace(0, 9, width)[:, None] + torch.arange(3)
    image = (127 * (1 + ramp.sin())).to(torch.uint8).to(device)
    out = torch.empty(3, spec.size, spec.size, dtype=torch.float16, device=device)

    def kernel(stream: int) -> None:
        kernels.prepare(image.data_ptr(), 3 * width, box, spec, out.data_ptr(), half=True, stream=stream)

    sizes = {"height": height, "width": width, "input": spec.size}
    tolerance = 2 / min(spec.std)  # PyTorch keeps fractions of a grey level
    return Case(
        "prepare",
        sizes,
        kernel,
        partial(baselines.prepare, image, box, *baselines.colours(spec, device), torch.float16),
        out,
        tolerance,
    )


def labels_case(kernels: Kernels, device: str, height: int, width: int, classes: int) -> Case:
    box = Letterbox.fit(height, width, 473)
    logits = torch.randn(classes, 2, FEATURE, FEATURE, device=device).half()
    rows, columns = baselines.back_maps(box, FEATURE, FEATURE, device)
    out = torch.empty(height, width, dtype=torch.uint8, device=device)

    def kernel(stream: int) -> None:
        shape = (classes, FEATURE, FEATURE)
        kernels.label_map(logits.data_ptr(), shape, box, out.data_ptr(), half=True, stream=stream)

    sizes = {"height": height, "width": width, "classes": classes}
    return Case("labels", sizes, kernel, partial(baselines.labels, logits, rows, columns), out, 0)

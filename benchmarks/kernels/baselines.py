"""What the framework does by itself for each kernel: plain PyTorch, which torch.compile may fuse."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import back_map
from ntre_deploy.runtime.letterbox import Letterbox


def colours(spec: InputSpec, device: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [3, 1, 1]: made beforehand, because a graph cannot capture a copy from the host."""
    return torch.tensor(spec.mean, device=device).view(3, 1, 1), torch.tensor(spec.std, device=device).view(3, 1, 1)


def prepare(image: Tensor, box: Letterbox, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [H, W, 3] -> [3, size, size]; without OpenCV's rounding to whole grey levels between resize and scaling."""
    planes = image.permute(2, 0, 1)[None].float()
    inner = (box.inner_height, box.inner_width)
    planes = F.interpolate(planes, inner, mode="bilinear", align_corners=False, antialias=box.averages)[0]
    out = (planes - mean) / std
    return F.pad(out, (0, box.size - box.inner_width, 0, box.size - box.inner_height)).to(dtype)


def back_maps(box: Letterbox, h: int, w: int, device: str) -> tuple[Tensor, Tensor]:
    """The two matrices of the way back, [H, h] and [w, W]."""
    rows = back_map(box.height, box.inner_height, box.size, h)
    columns = back_map(box.width, box.inner_width, box.size, w).T
    return tuple(torch.from_numpy(np.array(m)).to(device) for m in (rows, columns))  # type: ignore[return-value]


def labels(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Logits [N, 2, h, w] -> uint8 [H, W], over float maps of the full size."""
    values = rows @ (logits[:, 1].float() - logits[:, 0].float()) @ columns
    best, index = values.max(0)
    return torch.where(best > 0, index + 1, 0).to(torch.uint8)

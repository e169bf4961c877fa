"""A training-free baseline: every query pixel takes the nearer of two support prototypes by cosine.

Foreground and background prototype are masked averages over the support photos (PANet, Wang et al., ICCV 2019, without
its training), on the same frozen features as NTRENet's head.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ntre_deploy.model.config import input_spec
from ntre_deploy.model.matching import masked_average, resize
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import prepare_image, prepare_mask
from ntre_deploy.training.evaluator import Pixels, Run, Shots

_EPSILON = 1e-5


def prototype_matcher(model: NTRENet) -> Run:
    """Two-way matching on layer 4, the layer of the prior (eq. 5); layers 2 and 3 were 1 to 2 points worse."""
    spec = input_spec(model.config)
    model.eval()

    @torch.inference_mode()
    def run(query: Pixels, shots: Shots) -> Pixels:
        pixels, box = prepare_image(query, spec)
        features = _layer4(model, pixels)
        target, ground = [], []
        for image, mask in shots:
            pixels, letterbox = prepare_image(image, spec)
            support = _layer4(model, pixels)
            size = (support.shape[2], support.shape[3])
            inside = torch.zeros(1, 1, spec.size, spec.size)
            inside[..., : letterbox.inner_height, : letterbox.inner_width] = 1
            wanted = torch.from_numpy(prepare_mask(mask, spec) == 1)[None, None].float()
            shown, rest = resize(wanted, size), resize(inside - wanted, size).clamp_min(0)
            target.append(masked_average(support, shown, _EPSILON))
            ground.append(masked_average(support, rest, _EPSILON))
        pair = [F.cosine_similarity(features, _mean(p)[..., None, None], dim=1) for p in (ground, target)]
        return label_map(torch.stack(pair, 1).numpy(), box)

    return run


def _layer4(model: NTRENet, pixels: NDArray[np.float32]) -> Tensor:
    _, f3 = model.backbone.lower(torch.from_numpy(pixels)[None])
    return model.backbone.upper(f3)


def _mean(prototypes: list[Tensor]) -> Tensor:
    return torch.stack(prototypes).mean(0)

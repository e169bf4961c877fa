"""Rewrite 1: BatchNorm folded into the convolution before it."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)


def fold_batchnorm(module: Module) -> Module:
    """A copy of `module` in eval mode without BatchNorm.

    Every BatchNorm of this project's backbones is registered right after the convolution that it normalises.
    """
    folded = copy.deepcopy(module).eval()
    for parent in list(folded.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                assert previous is not None, f"{name} comes first"
                assert isinstance(previous[1], nn.Conv2d), f"{name} follows no convolution"
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child)
    return folded.requires_grad_(False)


def count_batchnorm(module: nn.Module) -> int:
    """Number of BatchNorm layers left in `module`."""
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


def constant(tensor: torch.Tensor) -> nn.Parameter:
    """A weight [...] of the deployed graph: no gradient."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)

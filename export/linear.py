"""Rewrites 4 and 5: pooling and resizing as fixed linear maps of rows and columns; a chain of them is one map."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ntre_deploy.export.fold import constant
from ntre_deploy.runtime.labels import linear_map

Size = tuple[int, int]
Matrix = NDArray[np.float32]


def pool_map(n_out: int, n_in: int) -> Matrix:
    """Adaptive average pooling along one axis as a matrix [n_out, n_in]; n_out may be the larger one."""
    matrix = np.zeros((n_out, n_in), np.float32)
    for i in range(n_out):
        start, end = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


class LinearMap(nn.Module):
    """x [..., h, w] -> rows @ x @ columns^T, [..., h', w']."""

    def __init__(self, rows: Matrix, columns: Matrix) -> None:
        super().__init__()
        self.rows = constant(torch.from_numpy(rows))  # [h', h]
        self.columns = constant(torch.from_numpy(np.ascontiguousarray(columns.T)))  # [w, w']

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.rows, torch.matmul(x, self.columns))


class AveragePool(nn.Module):
    """The plain operator, where the bins divide the feature: the engines know it best."""

    def __init__(self, kernel: Size) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel)


def resize_chain(*sizes: Size) -> nn.Module:
    """Bilinear resizes with aligned corners from the first size over the others to the last, as one map (rewrite 5)."""
    steps = [(a, b) for a, b in pairwise(sizes) if a != b]
    if not steps:
        return nn.Identity()
    maps: list[Matrix] = []
    for axis in (0, 1):
        matrix = np.eye(sizes[0][axis], dtype=np.float32)
        for a, b in steps:
            matrix = linear_map(b[axis], a[axis]) @ matrix
        maps.append(matrix)
    return LinearMap(maps[0], maps[1])


def adaptive_pool(size: Size, bins: int) -> nn.Module:
    """Adaptive average pooling of [..., *size] to [..., bins, bins] (rewrite 4)."""
    h, w = size
    if h == bins and w == bins:
        return nn.Identity()
    if h % bins == 0 and w % bins == 0:
        return AveragePool((h // bins, w // bins))
    return LinearMap(pool_map(bins, h), pool_map(bins, w))

"""The prior (eq. 5) from stored, normalised keys: one matrix product for all classes and shots."""

import torch
from torch import Tensor, nn

from ntre_deploy.model.matching import PRIOR_EPSILON

# far below any norm that a feature has; only keeps 0 / 0 away
_TINY = 1e-12


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """L2-normalise [..., D, ...] along `dim`, in float32.

    A squared norm over 2,048 channels passes 65,504 as soon as the norm passes 256.
    """
    vectors = vectors.to(torch.float32)
    norm = vectors.square().sum(dim, keepdim=True).sqrt()
    return vectors / norm.clamp_min(_TINY)


def best_cosines(f4: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The best cosine of every place to any key of a shot, for N classes of K shots.

    Features behind a ReLU have no negative similarity.  So zero columns never win a maximum; and a shot whose keys are
    all negative is padding of a class with fewer shots, and negative everywhere.  The epsilon of the released code,
    1e-7 beside the product of two norms, is left out: with norms of 0.3 and more it changes less than 1e-6.

    Args:
        f4: layer-4 feature of the query, [B, D, h, w].
        keys: float32 [N, K, D, M], columns of norm 1 or 0, or -1 all over in padding shots.
        dtype: of the similarity product; the rest is float32.

    Returns:
        float32 [B, hw, NK].
    """
    b, d, h, w = f4.shape
    n, k, _, m = keys.shape
    # a product in float16 needs unit rows; elsewhere the norm divides the few maxima, not the features
    before = dtype == torch.float16
    features = normalise(f4, 1) if before else f4
    rows = features.flatten(2).transpose(1, 2).reshape(b * h * w, d).to(dtype)
    columns = keys.permute(2, 0, 1, 3).reshape(d, n * k * m).to(dtype)
    similarity = (rows @ columns).view(b, h * w, n * k, m)
    best = similarity.amax(3).to(torch.float32)  # [B, hw, NK]
    if not before:
        norm = torch.linalg.vector_norm(f4.to(torch.float32), dim=1).flatten(1)  # [B, hw]
        best = best / norm.clamp_min(_TINY)[:, :, None]
    return best


def mean_of_shots(values: Tensor, low: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """Mean over the shots that are there: values [B, hw, NK], their lowest best cosine [B, 1, NK] -> [B, N, h, w]."""
    b, places, _ = values.shape
    present = (low >= 0).to(torch.float32).view(b, 1, classes, -1)
    mean = (values.view(b, places, classes, -1) * present).sum(3) / present.sum(3).clamp_min(1)
    return mean.transpose(1, 2).reshape(b, classes, *size)


def prior(f4: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Prior masks of N classes; arguments as of `best_cosines`.

    The min-max is float32, where 1e-7 is not zero.

    Returns:
        float32 [B, N, h, w] in [0, 1].
    """
    best = best_cosines(f4, keys, dtype)
    low, high = best.amin(1, keepdim=True), best.amax(1, keepdim=True)
    scaled = (best - low) / (high - low + PRIOR_EPSILON)
    return mean_of_shots(scaled, low, keys.shape[0], (f4.shape[2], f4.shape[3]))


class Prior(nn.Module):
    """`prior` under a name of its own in the exported graph, where profiles look for it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, f4: Tensor, keys: Tensor) -> Tensor:
        """See `prior`."""
        return prior(f4, keys, self.dtype)

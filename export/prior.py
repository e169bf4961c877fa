"""The prior (eq. 5) from stored, normalised keys: few matrix products for all classes and shots.

Keys come in chunks of a few columns, each of one shot, so that a shot costs what its target covers and not what the
largest target of all covers.  See `ntre_deploy.runtime.stacked`.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ntre_deploy.model.matching import PRIOR_EPSILON

# far below any norm that a feature has; only keeps 0 / 0 away
_TINY = 1e-12
# places of a query that meet all keys at once: the similarity of ResNet-50 at 473 pixels with 18,000 keys is 130 MB in
# fp16, and a quarter of it at a time costs a few launches
_PLACES = 1024


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """L2-normalise [..., D, ...] along `dim`, in float32.

    A squared norm over 2,048 channels passes 65,504 as soon as the norm passes 256.
    """
    vectors = vectors.to(torch.float32)
    norm = vectors.square().sum(dim, keepdim=True).sqrt()
    return vectors / norm.clamp_min(_TINY)


def best_cosines(f4: Tensor, keys: Tensor, chunks: Tensor) -> Tensor:
    """The best cosine of every place to any key of a shot, for N classes of K shots.

    Features behind a ReLU have no negative similarity, so zero keys never win a maximum.  The epsilon of the released
    code, 1e-7 beside the product of two norms, is left out: with norms of 0.3 and more it changes less than 1e-6.

    Args:
        f4: layer-4 feature of the query, [B, D, h, w].
        keys: [P, L, D], rows of norm 1 or 0, in the precision of the product; the rest is float32.
        chunks: int32 [N, K, Q], the chunks of each shot; those of a shot that is not there are -1.

    Returns:
        float32 [B, N, K, hw].
    """
    b, d = f4.shape[:2]
    p, length, _ = keys.shape
    n, k, q = chunks.shape
    # a product in float16 needs unit features; elsewhere the norm divides the few maxima, not the features
    before = keys.dtype == torch.float16
    features = (normalise(f4, 1) if before else f4).flatten(2).to(keys.dtype)  # [B, D, hw]
    places = features.shape[2]
    blocks = -(-places // _PLACES)
    edges = [places * i // blocks for i in range(blocks + 1)]
    rows = keys.reshape(p * length, d)
    found = [
        # never the similarity at its full size
        (rows @ features[:, :, start:stop]).view(b, p, length, stop - start).amax(2)
        for start, stop in pairwise(edges)
    ]
    best = (torch.cat(found, 2) if blocks > 1 else found[0]).to(torch.float32)  # [B, P, hw]
    # a shot that is not there reads the first chunk; no clamp, for whose int32 ONNX Runtime has no kernel on CUDA
    numbers = (chunks * (chunks >= 0).to(torch.int32)).flatten()
    best = best.index_select(1, numbers).view(b, n, k, q, places).amax(3)
    if not before:
        norm = torch.linalg.vector_norm(f4.to(torch.float32), dim=1).flatten(1)  # [B, hw]
        best = best / norm.clamp_min(_TINY)[:, None, None, :]
    return best


def mean_of_shots(values: Tensor, chunks: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the shots that are there: values [B, N, K, hw], chunks int32 [N, K, Q] -> [B, N, h, w]."""
    present = (chunks[:, :, 0] >= 0).to(torch.float32)[None, :, :, None]  # [1, N, K, 1]
    mean = (values * present).sum(2) / present.sum(2).clamp_min(1)
    return mean.view(values.shape[0], values.shape[1], *size)


def prior(f4: Tensor, keys: Tensor, chunks: Tensor) -> Tensor:
    """Prior masks of N classes; arguments as of `best_cosines`.

    The min-max is float32, where 1e-7 is not zero.

    Returns:
        float32 [B, N, h, w] in [0, 1].
    """
    best = best_cosines(f4, keys, chunks)
    low, high = best.amin(3, keepdim=True), best.amax(3, keepdim=True)
    scaled = (best - low) / (high - low + PRIOR_EPSILON)
    return mean_of_shots(scaled, chunks, (f4.shape[2], f4.shape[3]))


class Prior(nn.Module):
    """`prior` under a name of its own in the exported graph, where profiles look for it."""

    def forward(self, f4: Tensor, keys: Tensor, chunks: Tensor) -> Tensor:
        """See `prior`."""
        return prior(f4, keys, chunks)

"""Rewrites 4 and 5: pooling and resizing as constant matrices."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ntre_deploy.export.linear import AveragePool, LinearMap, adaptive_pool, resize_chain
from ntre_deploy.model.matching import resize

side = st.integers(1, 40)
size = st.tuples(side, side)


@settings(max_examples=60, deadline=None)
@given(h=side, w=side, bins=side)
def test_pooling_equals_adaptive_average_pooling(h: int, w: int, bins: int) -> None:
    x = torch.randn(1, 2, h, w)
    torch.testing.assert_close(adaptive_pool((h, w), bins)(x), F.adaptive_avg_pool2d(x, bins), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(a=size, b=size)
def test_one_resize(a: tuple[int, int], b: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *a)
    torch.testing.assert_close(resize_chain(a, b)(x), resize(x, b), rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(size, min_size=3, max_size=4))
def test_a_chain_of_resizes_is_one_map(sizes: list[tuple[int, int]]) -> None:
    x = torch.randn(1, 2, *sizes[0])
    wanted = x
    for s in sizes[1:]:
        wanted = resize(wanted, s)
    chain = resize_chain(*sizes)
    assert isinstance(chain, (LinearMap, nn.Identity))
    torch.testing.assert_close(chain(x), wanted, rtol=1e-4, atol=1e-4)


def test_the_kind_of_map_fits_the_sizes() -> None:
    assert isinstance(adaptive_pool((60, 60), 60), nn.Identity)
    assert isinstance(adaptive_pool((60, 60), 15), AveragePool)
    assert isinstance(adaptive_pool((60, 60), 8), LinearMap)
    assert isinstance(resize_chain((9, 9), (9, 9), (9, 9)), nn.Identity)

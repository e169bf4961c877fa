"""Rewrite 2: a prototype's share of a 1x1 convolution is a bias."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.export.prototypes import FoldedMerge
from ntre_deploy.model.blocks import merge
from ntre_deploy.model.matching import expand_as

sizes = st.integers(1, 9)


@settings(max_examples=40, deadline=None)
@given(c=sizes, p=sizes, rest=st.integers(0, 2), h=sizes, w=sizes, seed=st.integers(0, 99))
def test_expand_concatenate_convolve_is_convolve_plus_bias(
    c: int, p: int, rest: int, h: int, w: int, seed: int
) -> None:
    torch.manual_seed(seed)
    trained = merge(c + p + rest, 7)
    folded = FoldedMerge(trained, c, p)
    x, prototype, more = torch.randn(2, c, h, w), torch.randn(2, p), torch.randn(2, rest, h, w)
    with torch.inference_mode():
        wanted = trained(torch.cat([x, expand_as(prototype, x), more], 1))
        got = folded(x) + folded.bias(prototype)[:, :, None, None]
        got = got + torch.einsum("brhw,rc->bchw", more, folded.rest)
    torch.testing.assert_close(got.relu(), wanted, rtol=1e-4, atol=1e-5)


def test_a_constant_prototype_is_a_constant_bias() -> None:
    trained = merge(5 + 3, 4)
    folded = FoldedMerge(trained, 5, 3)
    x, prototype = torch.randn(2, 5, 6, 6), torch.randn(1, 3)
    with torch.inference_mode():
        wanted = trained(torch.cat([x, expand_as(prototype, x)], 1))
        got = folded(x, folded.bias(prototype[0])).relu()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

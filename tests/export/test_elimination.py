"""Rewrite 3: the DO mask and its pooling without control flow on data."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ntre_deploy.export.elimination import do_mask, do_prototype
from ntre_deploy.model.matching import masked_average

# few values, so that ties occur often
logits = st.integers(-1, 1).map(float)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(logits, logits, logits, logits), min_size=1, max_size=30))
def test_the_mask_is_equation_7_with_ties_too(values: list[tuple[float, float, float, float]]) -> None:
    table = torch.tensor(values).T.reshape(2, 2, 1, -1)  # [bg or initial, class, 1, pixels]
    background, initial = table[0][None], table[1][None]
    wanted = F.relu(1 - background.argmax(1, keepdim=True) - initial.argmax(1, keepdim=True))
    got = do_mask(background[:, 1:] - background[:, :1], initial[:, 1:] - initial[:, :1])
    assert torch.equal(got, wanted.float())


def test_pooling_is_a_product_for_every_class() -> None:
    torch.manual_seed(0)
    feature, mask = torch.randn(2, 5, 6, 7), (torch.rand(2, 3, 6, 7) > 0.5).float()
    released, paper = do_prototype(feature, mask, None), do_prototype(feature, mask, 1e-5)
    for n in range(3):
        one = mask[:, n : n + 1]
        torch.testing.assert_close(released[:, n], (feature * one).mean((2, 3)))
        torch.testing.assert_close(paper[:, n], masked_average(feature, one, 1e-5))


def test_an_empty_mask_gives_a_zero_prototype() -> None:
    feature, mask = torch.randn(1, 5, 4, 4), torch.zeros(1, 1, 4, 4)
    for epsilon in (None, 1e-5):
        assert torch.equal(do_prototype(feature, mask, epsilon), torch.zeros(1, 1, 5))


def test_pooling_sums_in_float32() -> None:
    """3,600 values of 30 pass what 16 bits hold."""
    feature, mask = torch.full((1, 1, 60, 60), 30.0, dtype=torch.float16), torch.ones(1, 1, 60, 60)
    assert do_prototype(feature, mask, None).item() == 30

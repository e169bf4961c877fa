"""The prior from stored keys equals the training graph's, however the keys are packed."""

import pytest
import torch

from ntre_deploy.export.prior import normalise, prior
from ntre_deploy.model.matching import prior_mask


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).square()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (2, 5)])
def test_every_class_and_shot_count(n: int, k: int) -> None:
    f4 = features(2, 16, 5, 7)
    keys = features(n, k, 16, 20, seed=1)
    keys[..., 12:] = 0  # outside the masks
    got = prior(f4, normalise(keys, 2), torch.float32)
    for c in range(n):
        wanted = torch.stack([prior_mask(f4, keys[c, s].view(1, 16, 4, 5).expand(2, -1, -1, -1)) for s in range(k)])
        torch.testing.assert_close(got[:, c : c + 1], wanted.mean(0), rtol=1e-4, atol=1e-5)


def test_zero_columns_and_their_order_do_not_matter() -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 1, 8, 6, seed=2), 2)
    wanted = prior(f4, keys, torch.float32)
    padded = torch.cat([torch.zeros(1, 1, 8, 3), keys.flip(3), torch.zeros(1, 1, 8, 9)], 3)
    torch.testing.assert_close(prior(f4, padded, torch.float32), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_shot_of_negative_keys_is_padding(dtype: torch.dtype) -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 2, 8, 6, seed=2), 2)
    f4[..., 0, 0] = 0  # a position without any feature
    padded = torch.cat([keys, torch.full((1, 3, 8, 6), -1.0)], 1)
    torch.testing.assert_close(prior(f4, padded, dtype), prior(f4, keys, dtype))


def test_a_shot_whose_target_vanished_counts_as_in_the_training_graph() -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 2, 8, 6, seed=2), 2)
    keys[:, 1] = 0
    wanted = torch.stack([prior_mask(f4, keys[0, s].view(1, 8, 2, 3)) for s in range(2)]).mean(0)
    torch.testing.assert_close(prior(f4, keys, torch.float32), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.max() < 0.51


def test_no_feature_and_no_key_give_no_nan() -> None:
    assert torch.equal(prior(torch.zeros(1, 8, 3, 3), torch.zeros(1, 1, 8, 2), torch.float32), torch.zeros(1, 1, 3, 3))
    flat = prior(torch.ones(1, 8, 3, 3), normalise(torch.ones(1, 1, 8, 2), 2), torch.float16)
    assert torch.isfinite(flat).all()


def test_norms_beyond_16_bits_are_normalised() -> None:
    vectors = torch.full((1, 2048, 3), 300.0, dtype=torch.float16)  # squared norm 184 million
    torch.testing.assert_close(normalise(vectors, 1).square().sum(1), torch.ones(1, 3))

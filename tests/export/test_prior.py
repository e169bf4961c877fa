"""The prior from stored keys equals the training graph's, however the keys are packed."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.export import prior as module
from ntre_deploy.export.prior import normalise, prior
from ntre_deploy.export.torch_engines import as_tensors
from ntre_deploy.model.matching import prior_mask
from ntre_deploy.runtime.stacked import CHUNK, stack


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).square()


def stacked(
    keys: Sequence[Sequence[torch.Tensor]] | torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [D, M] of classes and shots as the graph takes them."""
    prototypes = torch.zeros(len(keys), 1).numpy()
    _, rows, chunks = as_tensors(stack(prototypes, [[shot.numpy() for shot in shots] for shots in keys]), dtype)
    return rows, chunks


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (2, 5)])
def test_every_class_and_shot_count(n: int, k: int) -> None:
    f4 = features(2, 16, 5, 7)
    keys = features(n, k, 16, 20, seed=1)
    keys[..., 12:] = 0  # outside the masks
    got = prior(f4, *stacked(normalise(keys, 2)))
    for c in range(n):
        wanted = torch.stack([prior_mask(f4, keys[c, s].view(1, 16, 4, 5).expand(2, -1, -1, -1)) for s in range(k)])
        torch.testing.assert_close(got[:, c : c + 1], wanted.mean(0), rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3 * CHUNK), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(1, 80)
)
def test_unequal_shots_count_as_each_class_alone(sizes: list[list[int]], places: int) -> None:
    f4 = features(1, 8, 6, 9)
    # of other seeds than the query: keys that are its own features leave nothing but rounding to the min-max
    keys = [
        [normalise(features(8, m, seed=1 + 7 * n + k), 0) for k, m in enumerate(own)] for n, own in enumerate(sizes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PLACES", places)  # blocks of any size, the last one smaller
        together = prior(f4, *stacked(keys))
    for n, own in enumerate(keys):
        # a target that vanished has one key without any feature in the training graph
        shots = [k if k.shape[1] else torch.zeros(8, 1) for k in own]
        wanted = torch.stack([prior_mask(f4, k[None, :, :, None]) for k in shots]).mean(0)
        torch.testing.assert_close(together[:, n : n + 1], wanted, rtol=1e-4, atol=1e-5)


def test_zero_keys_and_their_order_do_not_matter() -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 1, 8, 6, seed=2), 2)
    wanted = prior(f4, *stacked(keys))
    padded = torch.cat([torch.zeros(1, 1, 8, 3), keys.flip(3), torch.zeros(1, 1, 8, 40)], 3)
    torch.testing.assert_close(prior(f4, *stacked(padded)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_shot_that_is_not_there_leaves_no_trace(dtype: torch.dtype) -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 2, 8, 6, seed=2), 2)
    f4[..., 0, 0] = 0  # a position without any feature
    rows, chunks = stacked(keys, dtype)
    padded = torch.cat([chunks, torch.full((1, 3, 1), -1, dtype=torch.int32)], 1)
    torch.testing.assert_close(prior(f4, rows, padded), prior(f4, rows, chunks))


def test_a_shot_whose_target_vanished_counts_as_in_the_training_graph() -> None:
    f4, keys = features(1, 8, 4, 4), normalise(features(1, 2, 8, 6, seed=2), 2)
    keys[:, 1] = 0
    wanted = torch.stack([prior_mask(f4, keys[0, s].view(1, 8, 2, 3)) for s in range(2)]).mean(0)
    torch.testing.assert_close(prior(f4, *stacked(keys)), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.max() < 0.51


def test_no_feature_and_no_key_give_no_nan() -> None:
    assert torch.equal(prior(torch.zeros(1, 8, 3, 3), *stacked(torch.zeros(1, 1, 8, 2))), torch.zeros(1, 1, 3, 3))
    ones = stacked(normalise(torch.ones(1, 1, 8, 2), 2), torch.float16)
    assert torch.isfinite(prior(torch.ones(1, 8, 3, 3), *ones)).all()


def test_norms_beyond_16_bits_are_normalised() -> None:
    vectors = torch.full((1, 2048, 3), 300.0, dtype=torch.float16)  # squared norm 184 million
    torch.testing.assert_close(normalise(vectors, 1).square().sum(1), torch.ones(1, 3))

"""The contrastive loss against the released code's values, its bank, and the regions of table 4."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.model.contrastive import (
    ContrastiveConfig,
    ContrastiveInput,
    PrototypeBank,
    contrastive_loss,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "losses_a.npz"


def golden() -> tuple[ContrastiveInput, dict[str, np.ndarray]]:
    arrays = dict(np.load(GOLDEN))
    x = ContrastiveInput(
        query_feature=torch.from_numpy(arrays["query_feature"]),
        support_feature=torch.from_numpy(arrays["support_feature"]),
        logits=torch.from_numpy(arrays["final_logits"]),
        query_bg_logits=torch.from_numpy(arrays["query_bg_logits"]),
        support_bg_logits=torch.from_numpy(arrays["support_bg_logits"]),
        query_label=torch.from_numpy(arrays["query_label"]),
        support_label=torch.from_numpy(arrays["support_label"])[:, 0],
        classes=torch.from_numpy(arrays["classes"]),
    )
    return x, arrays


def test_loss_and_bank_are_the_released_codes() -> None:
    x, arrays = golden()
    bank = PrototypeBank(ContrastiveConfig(), {0: torch.from_numpy(arrays["bank_in/0"])})
    assert contrastive_loss(x, bank).item() == pytest.approx(float(arrays["pcl_loss"]), rel=1e-5)
    assert bank.prototypes.keys() == {0, 1}
    for key in (0, 1):
        wanted = arrays[f"bank_out/{key}"][: len(bank.prototypes[key])]
        np.testing.assert_allclose(bank.prototypes[key].numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert bank.prototypes[key].shape == arrays[f"bank_out/{key}"].shape


def test_gradients_are_right() -> None:
    x, _ = golden()
    x = replace(
        x,
        **{n: getattr(x, n)[:2, ..., :4, :4].double() for n in ("logits", "query_bg_logits", "support_bg_logits")},
        query_label=x.query_label[:2, :4, :4],
        support_label=(torch.arange(32).view(2, 4, 4) % 3 == 0).float(),
        classes=torch.tensor([0, 1]),
    )
    query = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    support = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    # the bank holds no gradient, so what is checked numerically must not move it: its prototypes are fixed first
    fixed = PrototypeBank(ContrastiveConfig(size=0, per_class=False))
    negatives = torch.randn(5, 3, dtype=torch.float64)

    def loss(feature: torch.Tensor) -> torch.Tensor:
        bank = _Frozen(fixed.config, {0: negatives})
        return contrastive_loss(replace(x, query_feature=feature, support_feature=support), bank)

    assert torch.autograd.gradcheck(loss, query)


class _Frozen(PrototypeBank):
    def add(self, class_id: int, new: torch.Tensor) -> None:
        """Keep what is there."""


def test_a_bank_keeps_the_newest_and_draws_without_replacement() -> None:
    bank = PrototypeBank(ContrastiveConfig(size=6, drawn=4))
    for start in range(0, 10, 2):
        bank.add(3, torch.arange(start, start + 2).float()[:, None])
    assert bank.prototypes[3].flatten().tolist() == [8, 9, 6, 7, 4, 5]
    drawn = bank.draw(3, seed=0).flatten().tolist()
    assert len(set(drawn)) == 4
    assert set(drawn) <= {4, 5, 6, 7, 8, 9}


def test_banks_are_per_class_or_common() -> None:
    for per_class, keys in ((True, {1, 2}), (False, {0})):
        bank = PrototypeBank(ContrastiveConfig(per_class=per_class))
        bank.add(1, torch.zeros(1, 4))
        bank.add(2, torch.ones(1, 4))
        assert bank.prototypes.keys() == keys
        assert len(bank.draw(2)) == (1 if per_class else 2)


def test_prototypes_in_a_bank_have_no_gradient_and_survive_a_state_dict() -> None:
    x, _ = golden()
    feature = x.query_feature.clone().requires_grad_()
    bank = PrototypeBank(ContrastiveConfig())
    contrastive_loss(replace(x, query_feature=feature), bank).backward()
    assert feature.grad is not None
    assert not any(p.requires_grad for p in bank.prototypes.values())
    again = PrototypeBank(ContrastiveConfig())
    again.load_state_dict(bank.state_dict())
    assert all(torch.equal(again.prototypes[k], v) for k, v in bank.prototypes.items())


@pytest.mark.parametrize("negatives", ["do", "bg", "non_target"])
def test_negatives_come_from_the_region_that_is_asked_for(negatives: str) -> None:
    """Features that tell the region: channel 0 on background, 1 on other objects, 2 on the target."""
    regions = torch.tensor([[0, 0, 1, 2]]).view(1, 1, 4)
    feature = torch.nn.functional.one_hot(regions, 3).permute(0, 3, 1, 2).float()
    background = torch.stack([(regions != 0), (regions == 0)], 1).float()
    label = (regions == 2).long()
    logits = torch.stack([1 - label, label], 1).float()
    x = ContrastiveInput(feature, feature, logits, background, background, label, label, torch.tensor([0]))
    bank = PrototypeBank(ContrastiveConfig(negatives=negatives))  # type: ignore[arg-type]
    contrastive_loss(x, bank)
    wanted = {"do": [0.0, 1.0, 0.0], "bg": [1.0, 0.0, 0.0], "non_target": [2 / 3, 1 / 3, 0.0]}[negatives]
    np.testing.assert_allclose(bank.prototypes[0][0].numpy(), wanted, atol=1e-3)

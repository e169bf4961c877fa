"""Losses against the released code's values, numerical gradients and hand-made cases."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.losses import (
    LossWeights,
    bg_mining_loss,
    dense_loss,
    prior_loss,
    target_loss,
    total_loss,
)
from ntre_deploy.model.matching import nearest
from ntre_deploy.model.weights import import_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "losses_a.npz"


def test_the_bg_mining_loss_is_the_released_codes() -> None:
    golden = np.load(GOLDEN)
    logits, label = torch.from_numpy(golden["query_bg_logits"]), torch.from_numpy(golden["query_label"]).long()
    wanted = float(golden["bg_mining_loss_query"])
    assert bg_mining_loss(logits, label).item() == pytest.approx(wanted, rel=1e-5)


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[[0, 1, 255, 0, 1]] * 5, [[0, 0, 0, 0, 0]] * 5])
    assert torch.autograd.gradcheck(lambda x: bg_mining_loss(x, label), logits)
    assert torch.autograd.gradcheck(lambda x: target_loss(x, label), logits)


def test_bg_mining_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[0.0, -1.0]]]])  # p(BG) is 0.5 and 1 / (1 + e^3)
    label = torch.tensor([[[1, 0]]])
    half, low = -np.log(0.5), -np.log(1 / (1 + np.exp(3)))
    assert bg_mining_loss(logits, label, 0.3).item() == pytest.approx(half + 0.3 * (half + low) / 2, rel=1e-4)


def test_ignored_pixels_have_no_gradient_in_the_target_loss() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    label = torch.ones(1, 4, 4, dtype=torch.long)
    label[0, 0, 0] = 255
    target_loss(logits, label).backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 0, 0].abs().sum() == 0
    assert logits.grad[0, :, 1, 1].abs().sum() > 0


@pytest.mark.parametrize(("bgem", "doem"), [(True, True), (False, False), (True, False)])
def test_the_total_weighs_the_parts_that_the_model_has(bgem: bool, doem: bool) -> None:
    config = NTRENetConfig(
        backbone="squeezenet1_1", width=8, bg_channels=4, bins=(9, 4), input_size=65, bgem=bgem, doem=doem
    )
    model, _ = import_weights("random:1", config)
    model.train()
    masks = torch.zeros(2, 2, 65, 65)
    masks[..., 10:40, 10:40] = 1
    label = masks[:, 0].long()
    prediction = model(torch.randn(2, 3, 65, 65), torch.randn(2, 2, 3, 65, 65), masks)
    weights = LossWeights(alpha=0.2, bg=2.0, initial=3.0, inner=5.0)
    parts = total_loss(prediction, label, masks.long(), weights)
    expected = {"main", "inner", "total"} | ({"bg"} if bgem or doem else set()) | ({"initial"} if doem else set())
    assert parts.keys() == expected
    wanted = parts["main"] + 5 * parts["inner"] + 2 * parts.get("bg", 0) + 3 * parts.get("initial", 0)
    torch.testing.assert_close(parts["total"], wanted)
    if "bg" in parts:
        assert prediction.bg_logits is not None
        each = [bg_mining_loss(x, label, 0.2) for x in (prediction.bg_logits, *prediction.support_bg_logits)]
        torch.testing.assert_close(parts["bg"], sum(each) / 3)


def test_target_pixels_weigh_more_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 1.0, 5.0]], [[0.0, -1.0, -5.0]]]])
    label = torch.tensor([[[1, 0, 255]]])
    on_target, beside = np.log(2), np.log(1 + np.exp(-2))
    assert target_loss(logits, label).item() == pytest.approx((on_target + beside) / 2, rel=1e-5)
    assert target_loss(logits, label, weight=3.0).item() == pytest.approx((3 * on_target + beside) / 4, rel=1e-5)


def test_the_prior_as_a_prediction_by_hand() -> None:
    prior = torch.tensor([[[[0.25, 0.5, 1.0]]]])
    label = torch.tensor([[[0, 1, 255]]])
    assert prior_loss(prior, label).item() == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2, rel=1e-5)
    assert np.isfinite(prior_loss(prior, torch.zeros_like(label)).item()), "a prior of 1 on the background"


def test_the_dense_loss_by_hand() -> None:
    """Two proxies and two features: one pixel of the query, one of the support; another has no label."""
    from types import SimpleNamespace

    f4 = torch.tensor([[[[2.0, 7.0]], [[0.0, 7.0]]]]).expand(1, 2, 1, 2)
    keys = torch.tensor([[[[0.0, 0.0]], [[3.0, 0.0]]]])
    prediction = SimpleNamespace(
        query=SimpleNamespace(f4=f4.repeat(1, 1, 2, 1)), supports=[SimpleNamespace(keys=keys.repeat(1, 1, 2, 1))]
    )
    proxies = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    dense = torch.tensor([[[0, -100], [-100, -100]]])
    shown = torch.tensor([[[[1, 0], [0, 0]]]])
    found = dense_loss(prediction, proxies, dense, shown, torch.tensor([0]))  # type: ignore[arg-type]
    # each is its own proxy's direction, and at a right angle to the other: log(1 + e^(-1 / 0.05))
    assert found.item() == pytest.approx(np.log1p(np.exp(-20)), abs=1e-7)
    wrong = dense_loss(prediction, proxies.flip(0), dense, shown, torch.tensor([0]))  # type: ignore[arg-type]
    assert wrong.item() == pytest.approx(20, rel=1e-4)


@pytest.mark.parametrize(
    ("side", "count", "wanted"),
    [(9, 2, [0, 8]), (17, 3, [0, 8, 16]), (73, 3, [0, 36, 72]), (89, 6, [0, 18, 35, 53, 70, 88]), (9, 1, [0])],
)
def test_labels_are_taken_at_the_places_of_a_feature(side: int, count: int, wanted: list[int]) -> None:
    labels = torch.arange(side)[:, None] * 1000 + torch.arange(side)
    found = nearest(labels[None], (count, count))[0]
    assert found.tolist() == [[1000 * y + x for x in wanted] for y in wanted]

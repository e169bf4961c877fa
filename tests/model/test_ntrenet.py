"""The training graph beyond the golden vectors: the paper's form, shots, ablations, training mode."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.matching import masked_average, prior_mask
from ntre_deploy.model.network import Prediction
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import import_weights

SMALL = NTRENetConfig(backbone="squeezenet1_1", width=12, bg_channels=6, bins=(9, 4), input_size=65)
PAPER = NTRENetConfig.paper(backbone="squeezenet1_1", width=12, bg_channels=6, bins=(9, 4), input_size=65)


def episode(shots: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(batch, 3, 65, 65, generator=generator)
    supports = torch.randn(batch, shots, 3, 65, 65, generator=generator)
    masks = torch.zeros(batch, shots, 65, 65)
    masks[..., 16:44, 10:50] = 1
    return query, supports, masks


def predict(config: NTRENetConfig, shots: int = 1, batch: int = 1) -> Prediction:
    model, _ = import_weights("random:1", config)
    with torch.inference_mode():
        prediction = model(*episode(shots, batch))
    assert isinstance(prediction, Prediction)
    return prediction


def test_the_paper_eliminates_once_and_the_released_code_in_every_bin() -> None:
    assert [tuple(x.shape) for x in predict(SMALL).initial_logits] == [(1, 2, 9, 9), (1, 2, 4, 4)]
    assert [tuple(x.shape) for x in predict(PAPER).initial_logits] == [(1, 2, 9, 9)]


@pytest.mark.parametrize("config", [SMALL, PAPER])
def test_do_prototypes_follow_equation_8(config: NTRENetConfig) -> None:
    p = predict(config)
    q = p.query.feature  # its own first bin: 9 x 9
    masked = (q * p.do_masks[0]).sum((2, 3))
    area = p.do_masks[0].sum() + 1e-5 if config is PAPER else 81
    assert 0 < p.do_masks[0].mean() < 1
    torch.testing.assert_close(p.do_prototypes[0], masked / area)


def test_the_do_mask_is_what_neither_background_nor_initial_prediction_claims() -> None:
    p = predict(SMALL)
    assert p.bg_logits is not None
    background, initial = p.bg_logits.argmax(1), p.initial_logits[0].argmax(1)
    assert torch.equal(p.do_masks[0][:, 0] == 1, (background == 0) & (initial == 0))


def test_shots_are_averaged() -> None:
    model, _ = import_weights("random:1", SMALL)
    query, supports, masks = episode(3)
    with torch.inference_mode():
        single = [model(query, supports[:, k : k + 1], masks[:, k : k + 1]) for k in range(3)]
        together = model(query, supports, masks)
    torch.testing.assert_close(together.prototype, torch.stack([p.prototype for p in single]).mean(0))
    torch.testing.assert_close(together.prior, torch.stack([p.prior for p in single]).mean(0))


def test_equal_shots_are_one_shot() -> None:
    model, _ = import_weights("random:1", SMALL)
    query, supports, masks = episode(1)
    with torch.inference_mode():
        one = model(query, supports, masks).logits
        two = model(query, supports.repeat(1, 2, 1, 1, 1), masks.repeat(1, 2, 1, 1)).logits
    torch.testing.assert_close(one, two)


def test_a_batch_is_its_items() -> None:
    model, _ = import_weights("random:1", SMALL)
    query, supports, masks = episode(2, batch=3)
    with torch.inference_mode():
        together = model(query, supports, masks).logits
        apart = torch.cat([model(query[i : i + 1], supports[i : i + 1], masks[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bgem", "doem"), [(True, False), (False, True), (False, False)])
def test_ablations_leave_out_modules_and_their_weights(bgem: bool, doem: bool) -> None:
    config = replace(SMALL, bgem=bgem, doem=doem)
    names = set(NTRENet(config).state_dict())
    assert any(".bgem." in n for n in names) == bgem
    assert any(".doem." in n or ".initial." in n for n in names) == doem
    assert any(n.startswith("bgmm.") for n in names) == (bgem or doem)
    p = predict(config)
    assert len(p.do_masks) == (2 if doem else 0)
    assert (p.bg_logits is None) == (not (bgem or doem))
    assert torch.isfinite(p.logits).all()


def test_training_mode_gives_what_the_losses_need_and_gradients_reach_the_bg_prototype() -> None:
    model, _ = import_weights("random:1", SMALL)
    model.train()
    p = model(*episode(2, batch=2))
    assert [tuple(x.shape) for x in p.inner_logits] == [(2, 2, 9, 9), (2, 2, 4, 4)]
    assert len(p.support_bg_logits) == 2
    (p.logits.sum() + p.bg_logits.sum()).backward()
    assert model.bgmm is not None
    assert model.bgmm.prototype.grad is not None
    assert model.bgmm.prototype.grad.abs().sum() > 0


def test_only_label_1_of_a_support_mask_counts() -> None:
    model, _ = import_weights("random:1", SMALL)
    query, supports, masks = episode(1)
    marked = masks.clone()
    marked[..., :8, :] = 255
    with torch.inference_mode():
        assert torch.equal(model(query, supports, masks).logits, model(query, supports, marked).logits)


def test_masked_average_by_hand() -> None:
    feature = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [8.0, 8.0]]]])
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])
    torch.testing.assert_close(masked_average(feature, mask, 0.5), torch.tensor([[2.5 / 2.0, 4.0 / 2.0]]))


def test_the_prior_is_the_scaled_best_cosine() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.random((1, 5, 3, 4), np.float32), rng.random((1, 5, 2, 2), np.float32)
    k[..., 0] = 0  # outside the mask
    got = prior_mask(torch.from_numpy(q), torch.from_numpy(k))[0, 0].numpy()
    best = np.empty((3, 4))
    for y in range(3):
        for x in range(4):
            cosines = [
                q[0, :, y, x] @ k[0, :, i, 1] / np.linalg.norm(q[0, :, y, x]) / np.linalg.norm(k[0, :, i, 1])
                for i in range(2)
            ]
            best[y, x] = max(cosines)
    np.testing.assert_allclose(got, (best - best.min()) / (best.max() - best.min()), atol=1e-5)
    assert got.min() == 0
    assert got.max() == pytest.approx(1, abs=1e-5)

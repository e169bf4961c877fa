"""The deployed graphs equal the training graph, for every form and ablation, N classes, K shots, B images."""

from dataclasses import replace

import pytest
import torch

from ntre_deploy.export.fold import count_batchnorm
from ntre_deploy.export.ntrenet import QueryGraph, SupportGraph
from ntre_deploy.export.torch_engines import as_tensors
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.model.weights import import_weights
from ntre_deploy.runtime.stacked import stack

SQUEEZE = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 5, 2), input_size=65)
CONFIGS = {
    "released": SQUEEZE,
    "paper": NTRENetConfig.paper(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 5, 2), input_size=65),
    "vgg, bins larger than the feature": replace(SQUEEZE, backbone="vgg16_bn", bins=(10, 3)),
    "resnet, torchvision stem": replace(SQUEEZE, backbone="resnet50", stem="torchvision"),
    "resnet, deep stem": replace(SQUEEZE, backbone="resnet50"),
    "layer 4 coarser": replace(SQUEEZE, backbone="efficientnet_lite0"),
    "layer 4 coarser, paper": NTRENetConfig.paper(
        backbone="efficientnet_lite0", width=16, bg_channels=8, bins=(9, 5, 2), input_size=65
    ),
    "layer 4 coarser, uneven sizes": replace(SQUEEZE, backbone="efficientnet_lite0", input_size=89),
    "dilated to stride 16": replace(SQUEEZE, backbone="efficientnet_lite0", stride=16),
    "resnet18": replace(SQUEEZE, backbone="resnet18"),
    "without BGEM": replace(SQUEEZE, bgem=False),
    "without DOEM": replace(SQUEEZE, doem=False),
    "baseline": replace(SQUEEZE, bgem=False, doem=False),
    "one bin": replace(SQUEEZE, bins=(4,)),
}


def build(config: NTRENetConfig) -> NTRENet:
    model, _ = import_weights("random:2", config)
    if model.bgmm is not None:
        torch.nn.init.normal_(model.bgmm.prototype, generator=torch.Generator().manual_seed(1))
    return model


def inputs(size: int, batch: int, classes: int, shots: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(batch, 3, size, size, generator=generator)
    supports = torch.randn(classes, shots, 3, size, size, generator=generator)
    masks = torch.zeros(classes, shots, size, size)
    for c in range(classes):
        masks[c, :, 8 : 40 + 4 * c, 16 - 4 * c : 50] = 1
    return images, supports, masks


def stacked(
    prototypes: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prototypes [N, C] and keys [N, K, D, M] as a query graph takes them."""
    return as_tensors(stack(prototypes.numpy(), keys.numpy()), dtype)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_equal_the_training_graphs(name: str) -> None:
    config = CONFIGS[name]
    model = build(config)
    size = config.input_size
    images, supports, masks = inputs(size, batch=2, classes=2, shots=2)
    support, query = SupportGraph(model, size), QueryGraph(model, size)
    assert count_batchnorm(support) == count_batchnorm(query) == 0
    with torch.inference_mode():
        prototypes, keys = support(supports.flatten(0, 1), masks.flatten(0, 1)[:, None])
        got = query(images, *stacked(prototypes.view(2, 2, -1).mean(1), keys.view(2, 2, *keys.shape[1:])))
        for b in range(2):
            for n in range(2):
                wanted = model(images[b : b + 1], supports[n : n + 1], masks[n : n + 1]).logits[0]
                assert (got[b, n] - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", ["released", "layer 4 coarser"])
def test_support_outputs_equal_the_training_graphs(name: str) -> None:
    model = build(CONFIGS[name])
    _, supports, masks = inputs(65, 1, 1, 3)
    with torch.inference_mode():
        prototypes, keys = SupportGraph(model, 65)(supports[0], masks[0][:, None])
        wanted = model.encode_support(supports[0], masks[0])
    torch.testing.assert_close(prototypes, wanted.prototype, rtol=1e-4, atol=1e-6)
    flat = wanted.keys.flatten(2)
    torch.testing.assert_close(keys, torch.nn.functional.normalize(flat, dim=1), rtol=1e-4, atol=1e-6)
    assert torch.equal(keys.abs().sum(1) > 0, flat.abs().sum(1) > 0)


@pytest.mark.parametrize("name", ["released", "paper", "resnet, deep stem", "layer 4 coarser"])
def test_16_bit_graphs_stay_close(name: str) -> None:
    model = build(CONFIGS[name])
    images, supports, masks = inputs(65, 1, 1, 1)
    with torch.inference_mode():
        prototypes, keys = SupportGraph(model, 65, torch.float16)(supports[0], masks[0][:, None])
        got = QueryGraph(model, 65, torch.float16)(images, *stacked(prototypes, keys[None], torch.float16))
        wanted = model(images, supports, masks).logits[None]
    assert got.dtype == prototypes.dtype == keys.dtype == torch.float32
    assert (got - wanted).abs().max() <= 3e-2 * wanted.abs().max()


@pytest.mark.parametrize("name", ["released", "paper", "resnet, deep stem"])
def test_16_bit_graphs_stay_finite_and_close_with_features_a_hundred_times_larger(name: str) -> None:
    model = build(CONFIGS[name])
    images, supports, masks = inputs(65, 1, 1, 1)
    support, query = (kind(model, 65, torch.float16) for kind in (SupportGraph, QueryGraph))
    exact_support, exact = SupportGraph(model, 65), QueryGraph(model, 65)
    with torch.inference_mode():
        f2, f3 = exact.backbone.lower(images)
        f4 = exact.backbone.upper(f3)
        peak = max(f.abs().max().item() for f in (f2, f3, f4))
        # as large as 16 bits can hold at all: what follows the backbone must not add an overflow of its own
        factor = min(100.0, 60000 / peak / 4)
        prototypes, keys = exact_support(supports[0], masks[0][:, None])
        large = [f * factor for f in (f2, f3, f4)]
        wanted = exact.head(images, *large, *stacked(prototypes * factor, keys[None]))
        got = query.head(images, *(f.half() for f in large), *stacked(prototypes * factor, keys[None], torch.float16))
        loud = support(100 * supports[0], masks[0][:, None])
    assert f4.norm(dim=1).max() * factor > 256, "the squared norm would not have overflowed anyway"
    assert all(torch.isfinite(x).all() for x in (got, *loud))
    assert (got - wanted).abs().max() <= 5e-2 * wanted.abs().max()

"""A backbone from scratch: it learns, its BatchNorm folds away without a trace, and runs repeat themselves."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ntre_deploy.data.invented import catalogue
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.model.backbones import build_backbone
from ntre_deploy.model.backbones.efficientnet import EfficientNetLite0
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.training import pretraining
from ntre_deploy.training.episodes import NO_LABEL
from ntre_deploy.training.pretraining import LabelledScenes, PretrainOptions, pretrain

SMALL = PretrainOptions(steps=3, batch=2, size=33, scale=(0.2, 0.3), seed=4)


def squeezenet() -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(NTRENetConfig(backbone="squeezenet1_1"))
    assert isinstance(backbone, nn.Module)
    return backbone


def weights(options: PretrainOptions = SMALL) -> Mapping[str, torch.Tensor]:
    return pretrain(squeezenet(), [ProceduralDataset(3, 48)], options).state_dict()


def test_names_and_shapes_stay_and_no_batchnorm_is_left() -> None:
    before = {name: value.shape for name, value in squeezenet().state_dict().items()}
    backbone = pretrain(squeezenet(), [ProceduralDataset(3, 48)], SMALL)
    assert {name: value.shape for name, value in backbone.state_dict().items()} == before
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert not backbone.training


@torch.inference_mode()
def test_folding_leaves_every_layer_as_it_was() -> None:
    torch.manual_seed(0)
    backbone = squeezenet()
    pretraining._normalise(backbone)
    backbone.train()
    x = torch.randn(4, 3, 65, 65)
    for _ in range(3):  # statistics other than those of a new BatchNorm
        backbone.upper(backbone.lower(x)[1])  # type: ignore[operator]
    backbone.eval()

    def layers() -> list[torch.Tensor]:
        f2, f3 = backbone.lower(x)  # type: ignore[operator]
        return [f2, f3, backbone.upper(f3)]  # type: ignore[operator]

    before = layers()
    pretraining._fold(backbone)
    for a, b in zip(before, layers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def test_a_run_repeats_itself_and_its_seed_matters() -> None:
    once, again = weights(), weights()
    assert all(torch.equal(once[name], again[name]) for name in once)
    other = weights(PretrainOptions(steps=3, batch=2, size=33, scale=(0.2, 0.3), seed=5))
    assert not torch.equal(once["features.0.weight"], other["features.0.weight"])


def test_it_learns_to_name_the_objects() -> None:
    told: list[dict[str, float]] = []
    options = PretrainOptions(steps=100, batch=4, size=65, scale=(0.25, 0.3), warmup=10, bf16=False)
    # six classes, so that a hundred steps are enough to see it
    scenes = ProceduralDataset(0, 24, catalogue(0, 6), "invented")
    pretrain(squeezenet(), [scenes], options, lambda step, figures: told.append(figures))
    assert told[1]["right"] > max(told[0]["right"], 1.25 / 6), told


def test_a_backbone_with_batchnorm_keeps_its_own() -> None:
    backbone = build_backbone(NTRENetConfig(backbone="resnet50"))
    assert isinstance(backbone, nn.Module)
    before = list(backbone.state_dict())
    trained = pretrain(backbone, [ProceduralDataset(3, 48)], SMALL)
    assert list(trained.state_dict()) == before
    moved = [v for k, v in trained.state_dict().items() if k.endswith("running_mean")]
    assert all(bool(v.abs().sum() > 0) for v in moved)


def test_classes_of_two_datasets_stand_behind_one_another() -> None:
    first, second = ProceduralDataset(1, 48), ProceduralDataset(2, 48)
    scenes = LabelledScenes([first, second], SMALL)
    assert scenes.classes == 48
    seen: list[set[int]] = [set(), set()]
    for number in range(24):
        image, labels = scenes[number]
        assert image.shape == (3, 33, 33)
        assert labels.shape == (5, 5)
        seen[number % 2] |= set(labels.unique().tolist()) - {0, NO_LABEL}
    assert seen[0]
    assert seen[1]
    assert all(1 <= c <= 24 for c in seen[0])
    assert all(25 <= c <= 48 for c in seen[1])


class MasksAlone:
    """A dataset without dense labels."""

    name = "masks"

    def __init__(self) -> None:
        self._scenes = ProceduralDataset(0, 48)
        self.class_names = self._scenes.class_names
        self.images, self.image, self.mask = self._scenes.images, self._scenes.image, self._scenes.mask


def test_a_dataset_without_dense_labels_is_refused() -> None:
    with pytest.raises(InputError, match="masks"):
        pretrain(squeezenet(), [MasksAlone()], SMALL)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(GateError, match="--rate"):
        weights(PretrainOptions(steps=30, batch=2, size=33, scale=(0.2, 0.3), rate=1e30, warmup=1))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 1}, {"rate": 0.0}, {"rate": float("nan")}, {"size": 32}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        PretrainOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"backbone": "efficientnet_lite0"}, {"backbone": "vgg16_bn"}])
def test_backbones_of_other_strides_learn_too(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(NTRENetConfig(**options))
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    pretrain(backbone, [ProceduralDataset(3, 48)], replace(SMALL, steps=2, size=65))
    moved = [name for name, value in backbone.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) // 2


def test_scenes_are_normalised_for_the_backbone() -> None:
    spec = InputSpec(33, EfficientNetLite0.mean, EfficientNetLite0.std)
    pixels, _ = LabelledScenes([ProceduralDataset(3, 48)], SMALL, spec)[0]
    torch.testing.assert_close(pixels * 128 + 127, (pixels * 128 + 127).round(), rtol=0, atol=1e-3)

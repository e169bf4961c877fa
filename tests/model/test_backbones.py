"""Backbones: strides, torchvision's names, real weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntre_deploy.model.backbones import build_backbone
from ntre_deploy.model.config import NTRENetConfig

# options, stride of layer 3, stride of layer 4
CASES: list[tuple[dict[str, Any], int, int]] = [
    ({"backbone": "resnet50"}, 8, 8),
    ({"backbone": "resnet50", "stem": "torchvision"}, 8, 8),
    ({"backbone": "resnet101", "stem": "torchvision"}, 8, 8),
    ({"backbone": "resnet18"}, 8, 8),
    ({"backbone": "vgg16_bn"}, 16, 16),
    ({"backbone": "squeezenet1_1"}, 8, 8),
    ({"backbone": "efficientnet_lite0"}, 16, 32),
    ({"backbone": "efficientnet_lite0", "stride": 32}, 16, 32),
    ({"backbone": "efficientnet_lite0", "stride": 16}, 16, 16),
    ({"backbone": "efficientnet_lite0", "stride": 8}, 8, 8),
]


@pytest.mark.parametrize(("options", "third", "fourth"), CASES)
@pytest.mark.parametrize("size", [65, 89, 97])
def test_features_have_the_stride_and_channels_that_are_told(
    options: dict[str, Any], third: int, fourth: int, size: int
) -> None:
    module = build_backbone(NTRENetConfig(**options)).eval()
    with torch.inference_mode():
        f2, f3 = module.lower(torch.randn(2, 3, size, size))
        f4 = module.upper(f3)
    for feature, channels, stride in zip((f2, f3, f4), module.channels, (8, third, fourth), strict=True):
        side = -(-size // stride)
        assert feature.shape == (2, channels, side, side)
    assert f4.min() >= 0, "the key compaction of the runtime relies on non-negative features"


# name and shape of some tensors of torchvision's models
TORCHVISION = {
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn3.bias": (2048,),
    },
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.1.running_var": (128,),
        "layer4.1.bn2.bias": (512,),
    },
    "resnet101": {"layer3.22.conv3.weight": (1024, 256, 1, 1)},
    "vgg16_bn": {
        "features.0.weight": (64, 3, 3, 3),
        "features.1.running_var": (64,),
        "features.41.weight": (512,),
        "features.40.bias": (512,),
    },
    "squeezenet1_1": {"features.0.weight": (64, 3, 3, 3), "features.12.expand3x3.weight": (256, 64, 3, 3)},
}
COUNTS = {"resnet18": 120, "resnet50": 318, "resnet101": 624, "vgg16_bn": 91, "squeezenet1_1": 50}


@pytest.mark.parametrize("backbone", list(TORCHVISION))
def test_names_and_shapes_are_torchvisions(backbone: str) -> None:
    config = NTRENetConfig(backbone=backbone, stem="torchvision")  # type: ignore[arg-type]
    own = {name: tuple(tensor.shape) for name, tensor in build_backbone(config).state_dict().items()}
    assert TORCHVISION[backbone].items() <= own.items()
    # all of torchvision's tensors but the classifier's two
    assert len(own) == COUNTS[backbone]


def test_layers_3_and_4_of_a_resnet_dilate_instead_of_striding() -> None:
    module = build_backbone(NTRENetConfig())
    for name, dilation in (("layer3", 2), ("layer4", 4)):
        for block in getattr(module, name):
            assert block.conv2.stride == (1, 1)
            assert block.conv2.dilation == (dilation, dilation)


def test_squeezenet_features_sit_at_every_eighth_pixel() -> None:
    """Moving the input by 8 pixels moves every feature by one."""
    module = build_backbone(NTRENetConfig(backbone="squeezenet1_1")).eval()
    wide = torch.randn(1, 3, 137, 137)
    with torch.inference_mode():
        a = module.lower(wide[..., :129, :129])[0]
        b = module.lower(wide[..., 8:, 8:])[0]
    inside = slice(4, -5)
    np.testing.assert_allclose(a[..., 5:-4, 5:-4], b[..., inside, inside], atol=1e-5)


@pytest.mark.shared
def test_the_imagenet_weights_of_squeezenet_load_by_name(shared: Path) -> None:
    from ntre_deploy.model.weights import import_weights

    source = str(shared / "weights" / "squeezenet1_1_imagenet.safetensors")
    model, origin = import_weights(source, NTRENetConfig(width=16, bins=(8,), input_size=65))
    assert model.config.backbone == "squeezenet1_1"
    assert origin["head"] == "untrained"

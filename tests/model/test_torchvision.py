"""torchvision's backbones: found by name, and giving torchvision's own features."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.files import sha256
from ntre_deploy.model.config import NTRENetConfig
from ntre_deploy.model.weights import SQUEEZENET_SCALES, import_weights
from ntre_deploy.vision import torchvision

pytestmark = pytest.mark.torchvision
try:
    models = torchvision("models")
except EngineError as absent:
    pytest.skip(str(absent), allow_module_level=True)

HEAD = NTRENetConfig(width=8, bg_channels=8, bins=(4, 2), input_size=65)


def random_model(name: str, **options: Any) -> nn.Module:
    """torchvision's own network with random weights and BatchNorm statistics."""
    torch.manual_seed(7)
    model: nn.Module = models.get_model(name, weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return model.eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of downloads, empty; torchvision's addresses lead nowhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
    for name in ("resnet50", "resnet101", "resnet18", "vgg16_bn", "squeezenet1_1"):
        for weights in models.get_model_weights(name):
            monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/{Path(weights.url).name}")
    return tmp_path / "torch home" / "hub" / "checkpoints"


def imported(model: nn.Module, name: str, file: str, cache: Path) -> Any:
    """Our backbone with the weights of `model`, which lie in the cache as if they were downloaded."""
    cache.mkdir(parents=True)
    torch.save(model.state_dict(), cache / file)
    found, origin = import_weights(f"torchvision:{name}", HEAD)
    assert origin == {
        "source": f"torchvision:{name}:IMAGENET1K_V1",
        "backbone": "imported",
        "head": "untrained",
        "seed": 0,
    }
    return found.backbone


def features(backbone: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f2, f3 = backbone.lower(image)
    return f2, f3, backbone.upper(f3)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3, "a dead feature would equal anything"
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "file"), [("resnet50", "resnet50-0676ba61.pth"), ("resnet101", "resnet101-63fe2227.pth")]
)
def test_a_resnet_gives_torchvisions_features(name: str, file: str, cache: Path) -> None:
    theirs: Any = random_model(name, replace_stride_with_dilation=[False, True, True])
    ours = imported(theirs, name, file, cache)
    assert ours.stem == "torchvision"
    image = torch.randn(2, 3, 65, 65)
    f2, f3, f4 = features(ours, image)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    close(f2, theirs.layer2(theirs.layer1(x)))
    # torchvision leaves the first block of a dilated layer undilated; the semseg family, and so NTRENet, does not
    for layer, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        layer[0].conv2.dilation = layer[0].conv2.padding = (dilation, dilation)
    close(f3, theirs.layer3(f2))
    close(f4, theirs.layer4(theirs.layer3(f2)))


@torch.inference_mode()
def test_resnet18_gives_torchvisions_features(cache: Path) -> None:
    theirs: Any = random_model("resnet18")
    # torchvision dilates no basic block; by hand, all convolutions of a layer are dilated as in the other ResNets here
    for layer, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        layer[0].conv1.stride = layer[0].downsample[0].stride = (1, 1)
        for block in layer:
            for convolution in (block.conv1, block.conv2):
                convolution.dilation = convolution.padding = (dilation, dilation)
    ours = imported(theirs, "resnet18", "resnet18-f37072fd.pth", cache)
    image = torch.randn(2, 3, 65, 65)
    x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))
    for feature, layer in zip(features(ours, image), (theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
        x = layer(x)
        close(feature, x)


@torch.inference_mode()
def test_vgg_gives_torchvisions_features(cache: Path) -> None:
    theirs: Any = random_model("vgg16_bn")
    # where 16 divides the side, pools that keep a last column find none
    image = torch.randn(2, 3, 64, 64)
    for ours, end in zip(
        features(imported(theirs, "vgg16_bn", "vgg16_bn-6c64b313.pth", cache), image), (24, 34, 43), strict=True
    ):
        close(ours, theirs.features[:end](image))


@torch.inference_mode()
def test_squeezenet_gives_torchvisions_features(cache: Path) -> None:
    """Away from the border: ours are those of the image without its first 7 pixels, because ours pads and torchvision
    does not; and behind the third pool torchvision has every second of ours, because ours dilates there instead."""
    theirs: Any = random_model("squeezenet1_1")
    image = torch.randn(1, 3, 391, 391)
    f2, f3, f4 = features(imported(theirs, "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", cache), image[..., 7:, 7:])

    def inner(x: Tensor, first: int, step: int, border: int) -> Tensor:
        return x[..., first::step, first::step][..., border : border + 8, border : border + 8]

    # powers of two, put into the weights on import
    f2, f3 = f2 / SQUEEZENET_SCALES[0], f3 / SQUEEZENET_SCALES[1]
    close(inner(f2, 0, 1, 16), inner(theirs.features[:8](image), 0, 1, 16))
    close(inner(f3, 1, 2, 7), inner(theirs.features[:11](image), 0, 1, 7))
    close(inner(f4, 1, 2, 7), inner(theirs.features(image), 0, 1, 7))


def test_a_tag_takes_other_weights(cache: Path) -> None:
    cache.mkdir(parents=True)
    torch.save(random_model("resnet50").state_dict(), cache / "resnet50-11ad3fa6.pth")
    origin = import_weights("torchvision:resnet50:IMAGENET1K_V2", HEAD)[1]
    assert origin["source"] == "torchvision:resnet50:IMAGENET1K_V2"


@pytest.mark.parametrize("right", [True, False])
def test_weights_are_downloaded_once_and_checked(
    right: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(random_model("squeezenet1_1").state_dict(), tmp_path / "weights")
    digest = sha256(tmp_path / "weights")[:8] if right else "0" * 8
    source = (tmp_path / "weights").rename(tmp_path / f"squeezenet1_1-{digest}.pth")
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", source.as_uri())
    if not right:
        with pytest.raises(
            EngineError, match=r"torchvision:squeezenet1_1:IMAGENET1K_V1 came damaged or cut off.* by hand"
        ):
            import_weights("torchvision:squeezenet1_1", HEAD)
        assert list(cache.iterdir()) == []
        return
    import_weights("torchvision:squeezenet1_1", HEAD)
    source.unlink()
    assert import_weights("torchvision:squeezenet1_1", HEAD)[0].config.backbone == "squeezenet1_1"
    assert [p.name for p in cache.iterdir()] == [source.name]
    assert capsys.readouterr() == ("", "")


def test_without_a_network_the_file_to_fetch_by_hand_is_named(cache: Path) -> None:
    with pytest.raises(EngineError) as failed:
        import_weights("torchvision:vgg16_bn", HEAD)
    line = str(failed.value)
    assert "cannot be downloaded: Connection refused" in line
    assert "ntre import-weights vgg16_bn-6c64b313.pth OUT" in line
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "torch home").write_text("no folder")
    with pytest.raises(InputError, match="torch home"):
        import_weights("torchvision:vgg16_bn", HEAD)


def test_a_damaged_file_in_the_cache_is_named(cache: Path) -> None:
    cache.mkdir(parents=True)
    torch.save(torch.zeros(1000), cache / "vgg16_bn-6c64b313.pth")
    os.truncate(cache / "vgg16_bn-6c64b313.pth", 2000)
    with pytest.raises(InputError, match=r"vgg16_bn-6c64b313\.pth is not a PyTorch weight file"):
        import_weights("torchvision:vgg16_bn", HEAD)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision:", "resnet50, resnet101"),
        ("torchvision:efficientnet_lite0", "resnet18"),
        ("torchvision:resnet5", "Did you mean 'resnet50'"),
        ("torchvision:resnet50:IMAGENET1K_V3", "Did you mean 'IMAGENET1K_V"),
        ("torchvision:vgg16_bn:V1:x", "one of IMAGENET1K_V1"),
    ],
)
def test_an_unknown_name_or_tag_is_refused(source: str, words: str, cache: Path) -> None:
    with pytest.raises(InputError, match=words):
        import_weights(source, HEAD)

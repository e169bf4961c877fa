"""A backbone from scratch: dense classification of the objects of labelled scenes, with BatchNorm that is folded away.

Few-shot episodes train a backbone slowly: each says of two images which pixels are one class.  Here every pixel of an
object is one of all learned classes, which is what ImageNet does for the paper's backbones.  Layer 4 is trained twice,
on the whole image and behind the mask of one object, since keys run it on a masked layer 3 (eq. 5).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.transforms import Augmentation
from ntre_deploy.errors import GateError, InputError
from ntre_deploy.model.backbones import BackboneModule
from ntre_deploy.model.config import check_input_size
from ntre_deploy.model.matching import nearest
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.training.config import ALL, DataOptions
from ntre_deploy.training.episodes import NO_LABEL, TrainEpisodes
from ntre_deploy.training.schedule import learning_rate

# in pixels, between the labels of a scene; no backbone has finer features
_STRIDE = 8
_CLIP = 5.0
_POWER = 0.9
# the scenes' own axis is drawn from, so objects are seen at every turn
_AUGMENTATION = Augmentation(rotation=(-30.0, 30.0), blur_probability=0.2)

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class PretrainOptions:
    """How a backbone is trained before any episode.

    Attributes:
        steps, batch: of AdamW, and the scenes of a step.
        rate: learning rate at its height; it falls to 0 with the power 0.9.
        warmup: steps of the linear rise.
        places: places that a step counts of each kind: on objects, behind a mask, without an object (half as many).
        size: side of the crops in pixels, 8k + 1.
        scale: least and greatest factor of a scene before it is cropped.
        workers: processes that load and augment; results do not depend on it.
        seed: of weights, scenes and augmentation.
        bf16: 16-bit products where the processor has them.

    Raises:
        InputError: a number is out of range.
    """

    steps: int = 8000
    batch: int = 16
    rate: float = 3e-3
    warmup: int = 100
    places: int = 800
    size: int = 161
    scale: tuple[float, float] = (0.5, 0.75)
    workers: int = 0
    seed: int = 0
    bf16: bool = True

    def __post_init__(self) -> None:
        check_input_size(self.size)
        if self.steps < 1 or self.batch < 2 or not 0 < self.rate < math.inf:
            raise InputError(
                f"{self.steps} steps of {self.batch} scenes at a rate of {self.rate} are not possible; 1 step or more, "
                "2 scenes or more and a rate above 0 are expected."
            )


class LabelledScenes(TorchDataset[tuple[Tensor, Tensor]]):
    """Scene `number` as float32 [3, S, S] and int64 [s, s] at every eighth pixel: 0 none, 1 on a class, -100 no label.

    The classes of several datasets stand behind one another.

    Args:
        spec: side of the crops and normalisation; None is `options.size` and ImageNet's.

    Raises:
        InputError: a dataset knows the masks of single classes only.
    """

    def __init__(self, datasets: Sequence[Dataset], options: PretrainOptions, spec: InputSpec | None = None) -> None:
        spec = spec or InputSpec(options.size)
        data = DataOptions(split=ALL, cache=True)
        augmentation = replace(_AUGMENTATION, scale=options.scale)
        self.parts = [TrainEpisodes(d, data, spec, options.seed, augmentation, dense=True) for d in datasets]
        self.offsets = [0]
        for d in datasets:
            self.offsets.append(self.offsets[-1] + len(d.class_names))

    @property
    def classes(self) -> int:
        """Classes of all datasets together."""
        return self.offsets[-1]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        place, part = divmod(number, len(self.parts))
        episodes = self.parts[part]
        class_id, query, _, rng = episodes.draw(place)
        (pixels, _), dense = episodes.load_dense(query, class_id, rng)
        assert dense is not None
        dense = dense[::_STRIDE, ::_STRIDE]
        return pixels, torch.where(dense > 0, dense + self.offsets[part], dense)


def pretrain(
    backbone: nn.Module, datasets: Sequence[Dataset], options: PretrainOptions, report: Report = lambda s, f: None
) -> nn.Module:
    """Train a backbone in place, on a GPU where there is one, and return it: names and shapes as before, in eval mode.

    Args:
        backbone: a `BackboneModule`; its convolutions' weights are drawn anew from the seed, its biases are kept.
        datasets: with dense labels, such as `invented:0`.
        report: called every 50 steps with the loss and the share of object places that were named rightly.

    Raises:
        InputError: a dataset has no dense labels.
        GateError: the loss became NaN or infinite.
    """
    torch.manual_seed(options.seed)
    source = LabelledScenes(datasets, options, InputSpec(options.size, backbone.mean, backbone.std))  # type: ignore[arg-type]
    added = not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if added:
        _normalise(backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: nn.Module = backbone.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    classifier = nn.Linear(int(backbone.channels[2]), source.classes + 1).to(device)  # type: ignore[index]
    trained = [*network.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(trained, options.rate, weight_decay=1e-4)
    right = 0.0
    for step, (images, labels) in enumerate(_batches(source, options)):
        rate = learning_rate(options.rate, step, options.steps, warmup=options.warmup, power=_POWER)
        for group in optimiser.param_groups:
            group["lr"] = rate
        images, labels = images.to(device), labels.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            whole, masked, shown = _layer4(network, images, labels)
            size = (shown.shape[1], shown.shape[2])
            x, label = _draw(whole, masked, nearest(labels, size), shown, options.places)
            logits = classifier(x).float()
        loss = F.cross_entropy(logits, label)
        if not math.isfinite(loss.item()):
            raise GateError(f"The loss became {loss.item()} at step {step + 1}; lower --rate.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, _CLIP)
        optimiser.step()
        named = label > 0
        found = (logits.argmax(1) == label)[named].float().mean().item() if named.any() else right
        right = found if step == 0 else 0.98 * right + 0.02 * found
        if (step + 1) % 50 == 0 or step + 1 == options.steps:
            report(step + 1, {"loss": loss.item(), "right": right, "rate": rate})
    network.cpu().eval()
    if added:
        _fold(network)
    return network


def _layer4(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Layer 4 of the images and behind one object of each, [B, h, w, D], and where that object is, [B, h, w]."""
    backbone: BackboneModule = network  # type: ignore[assignment]
    shown = torch.stack([scene == _any_class(scene) for scene in labels])
    _, f3 = backbone.lower(images.contiguous(memory_format=torch.channels_last))
    # one pass, so that one set of BatchNorm statistics serves both
    mask = nearest(shown, (f3.shape[2], f3.shape[3]))
    f4 = backbone.upper(torch.cat([f3, f3 * mask[:, None]])).permute(0, 2, 3, 1)
    whole, masked = f4.chunk(2)
    return whole, masked, nearest(shown, (f4.shape[1], f4.shape[2]))


def _draw(whole: Tensor, masked: Tensor, labels: Tensor, shown: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Features [n, D] and labels [n] of random places of each kind: all of them cost too much with many classes."""
    features, named = [], []
    kinds = ((whole, labels > 0, places), (masked, shown, places), (whole, labels == 0, places // 2))
    for feature, kind, most in kinds:
        found = kind.flatten().nonzero()[:, 0]
        found = found[torch.randperm(len(found))[:most].to(found.device)]
        features.append(feature.flatten(0, 2)[found])
        named.append(labels.flatten()[found])
    return torch.cat(features), torch.cat(named)


def _any_class(scene: Tensor) -> int:
    classes = sorted(set(scene[scene > 0].tolist()))
    # no place has the number below all others
    return int(classes[int(torch.randint(len(classes), (1,)))]) if classes else NO_LABEL - 1


def _batches(source: LabelledScenes, options: PretrainOptions) -> Iterator[list[Tensor]]:
    numbers = [[step * options.batch + i for i in range(options.batch)] for step in range(options.steps)]
    yield from DataLoader(source, batch_sampler=numbers, num_workers=options.workers)


def _normalise(module: nn.Module) -> None:
    """Put BatchNorm behind every convolution."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            setattr(module, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels)))
        else:
            _normalise(child)


def _fold(module: nn.Module) -> None:
    """Undo `_normalise`: the statistics and scales go into weights and biases."""
    for name, child in list(module.named_children()):
        match list(child.children()):
            case [nn.Conv2d() as convolution, nn.BatchNorm2d() as norm]:
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            case _:
                _fold(child)

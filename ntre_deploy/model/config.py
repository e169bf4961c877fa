"""What a network is made of: one dataclass for each head, stored whole in every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.options import build
from ntre_deploy.runtime.inputspec import IMAGENET_MEAN, IMAGENET_STD, MAX_INPUT_SIZE, InputSpec

Backbone = Literal["resnet50", "resnet101", "vgg16_bn", "squeezenet1_1", "resnet18", "efficientnet_lite0"]
Stem = Literal["deep", "torchvision"]
BgInit = Literal["zeros", "normal"]
F3x3Form = Literal["residual", "plain"]
DoPrototype = Literal["mean", "masked_mean"]
Elimination = Literal["per_bin", "once"]

# of layer 4, its own one first; a backbone without an entry knows 8 alone
_STRIDES = {"vgg16_bn": (16,), "efficientnet_lite0": (32, 16, 8)}
# beyond what any machine can train; keeps a typing error from asking for all of the memory
_MAX_CHANNELS = 4096
_MAX_BINS = 16
# rank of the adapters that `ntre tune` adds
TUNED_RANK = 64
# what a manifest takes for a number
_MAX_LEVEL = 1e6


_Config = TypeVar("_Config", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """What every network has, whichever head stands on its backbone; each head's config adds its own options.

    Attributes:
        backbone: feature extractor; its state-dict names are torchvision's.
        stem: ResNet-50 and ResNet-101 only: `deep` (three 3x3 convolutions, as released) or `torchvision` (one 7x7).
        stride: of layer 4, in pixels; layer 3 has the same or 16.  None is the backbone's own: 32 for
            `efficientnet_lite0`, which also knows 16 and 8 by dilation, 16 for `vgg16_bn`, 8 for the others.
        mean, std: what the backbone's weights expect: (pixel - mean) / std of R, G and B in 0..255.  Importing weights
            sets them, and training takes them from the checkpoint that it starts from.
        shots: number of supports that the model was trained with.
        input_size: side of the square input in pixels, 8k + 1.
    """

    # the name under which `heads.HEADS` knows the head
    head: ClassVar[str] = ""
    # whether the head means something on a trained backbone without any training of its own
    training_free: ClassVar[bool] = False

    backbone: Backbone = "resnet50"
    stem: Stem = "deep"
    stride: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    shots: int = 1
    input_size: int = 473

    def __post_init__(self) -> None:
        for field in fields(self):
            if get_origin(field.type) is Literal:
                one_of(str(getattr(self, field.name)), [str(v) for v in get_args(field.type)], field.name)
        check_input_size(self.input_size)
        known = _STRIDES.get(self.backbone, (8,))
        if self.stride is not None and self.stride not in known:
            raise InputError(f"stride is {self.stride}; {self.backbone} has {' or '.join(map(str, sorted(known)))}.")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _colour(getattr(self, name), name))
        if min(self.std) <= 0:
            raise InputError(f"std is {list(self.std)}; its numbers must be above 0.")
        self._check_whole("shots")

    def _check_whole(self, *names: str, least: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_CHANNELS:
                raise InputError(f"{name} is {value!r}; it must be a whole number from {least} to {_MAX_CHANNELS}.")

    def _check_grids(self) -> None:
        """Masks are pooled to every grid of the backbone, which must span the image exactly."""
        step = self.stride or _STRIDES.get(self.backbone, (8,))[0]
        if (self.input_size - 1) % step:
            below = (self.input_size - 1) // step * step + 1
            raise InputError(
                f"Input size {self.input_size} does not fit the head {self.head} on {self.backbone}; it must be "
                f"{step}k + 1, such as {max(below, step + 1)} or {below + step}."
            )

    @property
    def uses_bg(self) -> bool:
        """Whether the network has a BG map, which the contrastive term (eq. 10) needs."""
        return False

    def for_tuning(self) -> "ModelConfig":
        """The config for a start from a model of this one, to learn a user's classes on a frozen backbone."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain JSON values, with the head's name."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {"head": self.head} | values

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Inverse of `to_dict`, for a config of this class; `heads.read_config` finds the class by the head's name.

        Raises:
            InputError: names the option that is unknown or whose value is of another type.
        """
        return build(cls, {name: value for name, value in values.items() if name != "head"}, "Model option")


@dataclass(frozen=True)
class NTRENetConfig(ModelConfig):
    """Options of one NTRENet; the defaults are the released code's, `paper()` gives the paper's.

    Attributes:
        width: channels C of every head feature and prototype.
        bg_channels: channels of the learned BG prototype P_BG (figure 6: 640; released: 256).
        bg_init: start value of P_BG (paper: random, released: zeros).
        f3x3: the F_3x3 of eq. 1, 2, 6: a `residual` pair of 3x3 convolutions and a 3x3 + 1x1 classifier (released), or
            two `plain` 3x3 convolutions, the second to two classes (paper; its text leaves open what else there is).
        do_prototype: eq. 8's `masked_mean`, or the released `mean` of the masked feature over all pixels.
        elimination: BGEM, matching and DOEM `per_bin` of the feature pyramid (released) or `once` (paper).
        area_epsilon: added to the mask's area in masked average pooling, in pixels.
        bins: side lengths of the feature pyramid, large to small.
        bgem, doem: ablation switches for the two eliminating modules (table 3).
    """

    head: ClassVar[str] = "ntrenet"

    width: int = 256
    bg_channels: int = 256
    bg_init: BgInit = "zeros"
    f3x3: F3x3Form = "residual"
    do_prototype: DoPrototype = "mean"
    elimination: Elimination = "per_bin"
    area_epsilon: float = 0.0005
    bins: tuple[int, ...] = (60, 30, 15, 8)
    bgem: bool = True
    doem: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("width", "bg_channels")
        object.__setattr__(self, "bins", tuple(self.bins))
        if not 0 < self.area_epsilon <= 1:
            raise InputError(f"area_epsilon is {self.area_epsilon}; it must be above 0 and at most 1.")
        if not 1 <= len(self.bins) <= _MAX_BINS or any(type(b) is not int or not 1 <= b <= 512 for b in self.bins):
            raise InputError(f"bins is {list(self.bins)}; it must be 1 to {_MAX_BINS} whole numbers from 1 to 512.")

    @classmethod
    def released(cls, **changes: Any) -> "NTRENetConfig":
        """The form of the authors' released code."""
        return cls(**changes)

    @classmethod
    def paper(cls, **changes: Any) -> "NTRENetConfig":
        """The form of the CVPR 2022 paper (section 3, figure 6)."""
        form: dict[str, Any] = {
            "bg_channels": 640,
            "bg_init": "normal",
            "f3x3": "plain",
            "do_prototype": "masked_mean",
            "elimination": "once",
            "area_epsilon": 1e-5,
        }
        return cls(**(form | changes))

    @property
    def uses_bg(self) -> bool:
        """Whether BGMM is there: the DO mask (eq. 7) needs the BG map even without BGEM."""
        return self.bgem or self.doem


@dataclass(frozen=True)
class MatcherConfig(ModelConfig):
    """Options of the training-free matcher: every pixel takes the nearer of two support prototypes by cosine.

    Attributes:
        fine: weight of layer 3's score beside layer 4's; 0 leaves it out.
        nearest: weight of the best cosine to any single key of the target, beside that of its prototype.
        adapter: rank of a change of layer 4 that `ntre tune` learns; 0 leaves it out.
    """

    head: ClassVar[str] = "matcher"
    training_free: ClassVar[bool] = True

    fine: float = 0.5
    nearest: float = 0.0
    adapter: int = 0

    def for_tuning(self) -> "MatcherConfig":
        """With an adapter: nothing else of this head could know a class."""
        return replace(self, adapter=self.adapter or TUNED_RANK)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_grids()
        self._check_whole("adapter", least=0)
        for name in ("fine", "nearest"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class RefinerConfig(ModelConfig):
    """Options of the refiner: the matcher, and a small network that corrects its score.

    Attributes:
        fine: weight of layer 3's score beside layer 4's.
        width: channels of the correction.
        guide: channels through which layer 2 enters it.
        adapter: rank of a change of layer 4 that `ntre tune` learns; 0 leaves it out.
    """

    head: ClassVar[str] = "refiner"

    fine: float = 0.5
    width: int = 32
    guide: int = 8
    adapter: int = 0

    def for_tuning(self) -> "RefinerConfig":
        """With an adapter: nothing else of this head could know a class."""
        return replace(self, adapter=self.adapter or TUNED_RANK)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_grids()
        self._check_whole("width", "guide")
        self._check_whole("adapter", least=0)
        if not 0 < self.fine <= 1:
            raise InputError(f"fine is {self.fine}; it must be above 0 and at most 1.")


def _colour(values: tuple[float, ...], name: str) -> tuple[float, ...]:
    numbers = tuple(values)
    if len(numbers) != 3 or not all(type(v) in (int, float) and abs(v) < _MAX_LEVEL for v in numbers):
        raise InputError(f"{name} is {list(numbers)}; it must be three numbers, for R, G and B in 0..255.")
    return tuple(float(v) for v in numbers)


def check_input_size(size: int) -> int:
    """Return `size` when it is 8k + 1, from 33 to `MAX_INPUT_SIZE` pixels.

    Raises:
        InputError: names the nearest sizes that fit.
    """
    if 33 <= size <= MAX_INPUT_SIZE and size % 8 == 1:
        return size
    below = min(max(33, (size - 1) // 8 * 8 + 1), MAX_INPUT_SIZE - 8)
    example = f"{below} or {below + 8}"
    raise InputError(
        f"Input size {size} does not fit; it must be 8k + 1 from 33 to {MAX_INPUT_SIZE}, such as {example}."
    )


def input_spec(config: ModelConfig, size: int | None = None) -> InputSpec:
    """What the model of `config` takes, at its own input size or at `size`.

    Raises:
        InputError: the size is not 8k + 1.
    """
    return InputSpec(config.input_size if size is None else check_input_size(size), config.mean, config.std)

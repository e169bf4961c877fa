"""What a training run is: one dataclass for each concern, read from a TOML file."""

import math
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ntre_deploy.data.folds import SPLITS
from ntre_deploy.data.transforms import Augmentation
from ntre_deploy.errors import InputError, one_of
from ntre_deploy.files import reading
from ntre_deploy.model.config import ModelConfig, NTRENetConfig
from ntre_deploy.model.contrastive import ContrastiveConfig
from ntre_deploy.model.heads import find_head
from ntre_deploy.model.heads import read_config as read_model_config
from ntre_deploy.model.losses import LossWeights
from ntre_deploy.options import build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Optimiser = Literal["sgd", "adamw"]
Precision = Literal["fp32", "bf16", "fp16"]
BackboneMode = Literal["frozen", "drift", "finetune"]

# the split that holds no class back
ALL = "all"
# what float32 holds, rounded down
_MOST = 3e38


@dataclass(frozen=True)
class DataOptions:
    """Episodes to learn from: the base classes of a fold.

    Attributes:
        dataset: spec as on the command line, such as `coco:instances_train.json`.
        fold, split: the novel classes of this fold are held back; the split `all` holds none back.
        shots: supports of each episode.
        most_shots: each step draws a number of supports from `shots` to this; None always takes `shots`.
        cache: keep decoded images and masks in memory, once in each worker.
        views: fixed augmented views of each image and class, whose features a frozen backbone computes once and that
            stay in memory; 0 draws a new augmentation each time.
        scenes: scenes made of each photo by crops, colours and copy-paste, whose features stay in memory in the same
            way; in place of views and augmentation.
        workers: processes that load and augment; results do not depend on it.
    """

    dataset: str = "procedural"
    fold: int = 0
    split: str = "interleaved"
    shots: int = 1
    most_shots: int | None = None
    cache: bool = False
    views: int = 0
    scenes: int = 0
    workers: int = 2


@dataclass(frozen=True)
class OptimiserOptions:
    """Optimiser and schedule; the defaults are the released code's.

    Attributes:
        epochs: passes over the images that hold a base class; `steps`, where given, takes its place.
        batch: episodes of a step, over all processes together.
        power: of the polynomial schedule, rate x (1 - step / steps) ^ power.
        clip: largest norm of the gradient; None does not clip.
        warmup: steps in which the rate grows linearly.
        average: decay of a running average of the weights, which the checkpoints hold in their place; 0 has none.
    """

    kind: Optimiser = "sgd"
    rate: float = 0.0025
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    epochs: int = 150
    steps: int | None = None
    batch: int = 4
    clip: float | None = None
    warmup: int = 0
    average: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """How the run behaves.

    Attributes:
        seed: of weights, episodes, augmentation and dropout.
        precision: of the forward pass (autocast).
        backbone: `frozen` in eval mode; `drift`, frozen weights with BatchNorm statistics that move, as the released
            code does; `finetune` trains it.
        dropout: off makes a run independent of how a batch is split over processes.
        log_every, save_every, validate_every: in steps; 0 validates at the end only.
        validate_episodes: episodes of the novel classes in each validation.
        validate_on: spec of another dataset to validate on: its classes of the same fold, or all with the split `all`.
    """

    seed: int = 0
    precision: Precision = "fp32"
    backbone: BackboneMode = "frozen"
    dropout: bool = True
    log_every: int = 10
    save_every: int = 200
    validate_every: int = 0
    validate_episodes: int = 100
    validate_on: str | None = None


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run; `contrastive` None leaves eq. 10 out."""

    model: ModelConfig = field(default_factory=NTRENetConfig)
    data: DataOptions = field(default_factory=DataOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    loss: LossWeights = field(default_factory=LossWeights)
    contrastive: ContrastiveConfig | None = field(default_factory=ContrastiveConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        one_of(self.data.split, (*SPLITS, ALL), "data.split")
        one_of(self.optimiser.kind, get_args(Optimiser), "optimiser.kind")
        one_of(self.run.precision, get_args(Precision), "run.precision")
        one_of(self.run.backbone, get_args(BackboneMode), "run.backbone")
        low: dict[str, tuple[float, float]] = {
            "data.shots": (self.data.shots, 1),
            "data.workers": (self.data.workers, 0),
            "data.views": (self.data.views, 0),
            "data.scenes": (self.data.scenes, 0),
            "data.most_shots": (self.data.most_shots or self.data.shots, self.data.shots),
            "optimiser.epochs": (self.optimiser.epochs, 1),
            "optimiser.steps": (self.optimiser.steps or 1, 1),
            "optimiser.batch": (self.optimiser.batch, 1),
            "run.log_every": (self.run.log_every, 1),
            "run.save_every": (self.run.save_every, 1),
            "run.seed": (self.run.seed, 0),
            "run.validate_every": (self.run.validate_every, 0),
            "run.validate_episodes": (self.run.validate_episodes, 1),
            "optimiser.momentum": (self.optimiser.momentum, 0),
            "optimiser.weight_decay": (self.optimiser.weight_decay, 0),
            "optimiser.power": (self.optimiser.power, 0),
            "optimiser.warmup": (self.optimiser.warmup, 0),
        }
        if self.contrastive is not None:
            low["contrastive.size"] = (self.contrastive.size, 1)
            low["contrastive.drawn"] = (self.contrastive.drawn, 1)
        for group, options in self.to_dict().items():
            for name, value in (options or {}).items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise InputError(f"{group}.{name} is {value}; it must be finite.")
        for name, (value, least) in low.items():
            if value < least:
                raise InputError(f"{name} is {value}; it must be {least} or more.")
        if self.run.seed >= 2**32:
            raise InputError(f"run.seed is {self.run.seed}; it must be at most {2**32 - 1}.")
        if self.optimiser.momentum >= 1:
            raise InputError(f"optimiser.momentum is {self.optimiser.momentum}; it must be below 1.")
        if self.loss.dense and self.run.backbone != "finetune":
            raise InputError('loss.dense trains a backbone; set run.backbone = "finetune", or loss.dense = 0.')
        for name in ("views", "scenes"):
            if getattr(self.data, name) and (self.run.backbone != "frozen" or self.data.workers):
                raise InputError(
                    f"data.{name} needs a frozen backbone (run.backbone) and no workers (data.workers = 0)."
                )
        if self.data.views and self.data.scenes:
            raise InputError("data.views and data.scenes exclude each other; set one of them to 0.")
        if self.data.most_shots is not None and not self.data.scenes:
            raise InputError("data.most_shots draws supports among scenes; set data.scenes, or leave it out.")
        if not 0 <= self.optimiser.average < 1:
            raise InputError(f"optimiser.average is {self.optimiser.average}; it must be 0 or more and below 1.")
        for name in ("rate", "clip"):
            value = getattr(self.optimiser, name)
            if value is not None and not 0 < value <= _MOST:
                raise InputError(f"optimiser.{name} is {value}; it must be above 0 and at most {_MOST:g}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = asdict(self)
        content["model"] = self.model.to_dict()
        return content


_GROUPS: dict[str, type] = {
    "data": DataOptions,
    "optimiser": OptimiserOptions,
    "loss": LossWeights,
    "contrastive": ContrastiveConfig,
    "augmentation": Augmentation,
    "run": RunOptions,
}


def read_config(path: Path) -> TrainConfig:
    """Read a TOML file with the tables of `TrainConfig`; what is left out keeps its default.

    `[model] head` names one of `heads.HEADS`, and `form = "paper"` or `"released"` the defaults of NTRENet;
    `contrastive = false` leaves it out.

    Raises:
        InputError: the file is no TOML, or an option is unknown, of another type or out of range.
    """
    try:
        with reading(path, "Config"):
            content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"Config {path} cannot be read as TOML: {error}.") from error
    for name in content:
        one_of(name, ["model", *_GROUPS], f"Config {path}: table")
    try:
        options: dict[str, Any] = {}
        for name, kind in _GROUPS.items():
            if name == "contrastive" and content.get(name) is False:
                options[name] = None
            elif name in content:
                options[name] = build(kind, _table(content[name], name), f"Option of [{name}]")
        return TrainConfig(model=_model(_table(content.get("model", {}), "model")), **options)
    except InputError as error:
        raise InputError(f"Config {path}: {error}") from error


def with_options(config: TrainConfig, group: str, **changes: Any) -> TrainConfig:
    """A copy with some options of one group changed; None leaves an option as it is."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(config, **{group: replace(getattr(config, group), **given)})


def _model(values: dict[str, Any]) -> ModelConfig:
    head = find_head(str(values.get("head", NTRENetConfig.head))).config
    form = values.pop("form", None)
    if head is not NTRENetConfig and form is not None:
        raise InputError(f"model.form is of the head {NTRENetConfig.head}; leave it out beside head = {head.head!r}.")
    one_of(str(form or "released"), ("released", "paper"), "model.form")
    preset = NTRENetConfig.paper() if form == "paper" else head()
    return read_model_config(preset.to_dict() | values)


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"[{name}] is {value!r} where a table is expected.")
    return dict(value)

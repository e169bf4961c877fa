"""What a run starts from: a model, and the validation that it is judged by."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import sample_episodes, usable_classes
from ntre_deploy.data.folds import novel_classes
from ntre_deploy.data.registry import open_dataset
from ntre_deploy.errors import InputError
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.files import sha256
from ntre_deploy.model.checkpoint import fill, load_checkpoint
from ntre_deploy.model.config import input_spec
from ntre_deploy.model.heads import build_network
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.model.weights import source_of
from ntre_deploy.training.config import ALL, TrainConfig
from ntre_deploy.training.evaluator import evaluate
from ntre_deploy.training.runs import NetworkRun

# options of the model that may differ from those of the checkpoint that a run starts from; `start_model` takes mean and
# std from it
_FREE = ("input_size", "stride", "bins", "bgem", "doem")


def validation(
    config: TrainConfig, dataset: Dataset, *, strict: bool = False
) -> Callable[[FewShotNetwork], float] | None:
    """The novel classes' mIoU on fixed episodes; None where there are none or they have too few images.

    Args:
        dataset: of the training; `run.validate_on` names another one.
        strict: of `open_dataset`, for that one.

    Raises:
        InputError: `run.validate_on` cannot be opened.
    """
    data = config.data
    if config.run.validate_on is not None:
        dataset = open_dataset(config.run.validate_on, strict=strict)
    elif data.split == ALL:
        return None
    fold = None if data.split == ALL else data.fold
    novel = tuple(dataset.class_names) if fold is None else novel_classes(len(dataset.class_names), fold, data.split)
    usable = usable_classes(dataset, novel, data.shots)
    if not usable:
        return None
    count = config.run.validate_episodes
    episodes = sample_episodes(dataset, usable, data.shots, count, config.run.seed, split=data.split, fold=fold)
    return lambda model: evaluate(NetworkRun(FullNetwork(model, input_spec(model.config))), dataset, episodes).miou


def check_start(config: TrainConfig, init: Path | None, start: Path | None) -> None:
    """See that a backbone which is not trained comes from somewhere.

    Raises:
        InputError: it would keep its random weights.
    """
    if config.run.backbone != "finetune" and init is None and start is None:
        raise InputError(
            f'The backbone is not trained (run.backbone = "{config.run.backbone}") and has no weights to start from; '
            f"give some with --init CHECKPOINT (`ntre import-weights {source_of(config.model.backbone)} OUT` makes "
            'one) or --start CHECKPOINT, or train it with run.backbone = "finetune" in the config.'
        )


def start_model(config: TrainConfig, init: Path | None = None, start: Path | None = None) -> FewShotNetwork:
    """A model with seeded weights and, where `init` is given, that checkpoint's backbone; or the weights of `start`.

    Mean and std are those of the checkpoint, because its backbone learned with them.  From `start`, input size, stride
    and pyramid bins may be others and BGEM or DOEM may be left out; every weight that the config's model has must be
    there.

    Raises:
        InputError: the checkpoint cannot be read, has another backbone (`init`) or model options (`start`), or lacks
            a module.
    """
    source = start or init
    before = None if source is None else load_checkpoint(source).model
    options = config.model
    if before is not None:
        options = replace(options, mean=before.config.mean, std=before.config.std)
    torch.manual_seed(config.run.seed)
    model = build_network(options)
    if before is None:
        # the layers' own start values are too small to train a backbone without BatchNorm from scratch
        for module in model.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return model
    if start is not None:
        ours, theirs = options.to_dict(), before.config.to_dict()
        if ours["head"] != theirs["head"]:
            raise InputError(
                f"Checkpoint {start} has the head {theirs['head']}, the config asks for {ours['head']}; take its "
                "backbone alone with --init."
            )
        if different := [name for name in ours if ours[name] != theirs[name] and name not in _FREE]:
            raise InputError(
                f"Checkpoint {start} has another {different[0]} ({theirs[different[0]]}) than the config "
                f"({ours[different[0]]}); of [model], only {', '.join(_FREE)} may change to start from its weights."
            )
        own = model.state_dict()
        fill(model, {k: v for k, v in before.state_dict().items() if k in own}, f"Checkpoint {start}")
        return model
    asked, found = ((c.backbone, c.stem) for c in (config.model, before.config))
    if found != asked:
        raise InputError(
            f"Checkpoint {init} has the backbone {found[0]} ({found[1]} stem), the config asks for {asked[0]} "
            f"({asked[1]} stem)."
        )
    model.backbone.load_state_dict(before.backbone.state_dict())
    return model


def provenance(command: str, init: Path | None = None, start: Path | None = None) -> dict[str, Any]:
    """What a checkpoint says of how it was made: the command, and the checkpoint that the run began with."""
    origin: dict[str, Any] = {"trained_by": command}
    for name, path in (("backbone_from", init), ("started_from", start)):
        if path is not None:
            before = load_checkpoint(path).origin
            told = ("trained_by", "source", "backbone_from", "started_from")
            known = {key: before[key] for key in told if key in before}
            origin[name] = {"sha256": sha256(path)} | known
    return origin

"""What a run starts from: a model, and the validation that it is judged by."""

from collections.abc import Callable
from pathlib import Path

import torch

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.episodes import sample_episodes, usable_classes
from ntre_deploy.data.folds import novel_classes
from ntre_deploy.errors import InputError
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.ntrenet import NTRENet
from ntre_deploy.runtime.image import InputSpec
from ntre_deploy.training.config import TrainConfig
from ntre_deploy.training.evaluator import evaluate
from ntre_deploy.training.runs import NetworkRun


def validation(config: TrainConfig, dataset: Dataset) -> Callable[[NTRENet], float] | None:
    """The novel classes' mIoU on fixed episodes of the training dataset; None where they have too few images."""
    data, spec = config.data, InputSpec(config.model.input_size)
    novel = novel_classes(len(dataset.class_names), data.fold, data.split)
    usable = usable_classes(dataset, novel, data.shots)
    if not usable:
        return None
    count = config.run.validate_episodes
    episodes = sample_episodes(dataset, usable, data.shots, count, config.run.seed, split=data.split, fold=data.fold)
    return lambda model: evaluate(NetworkRun(FullNetwork(model, spec)), dataset, episodes).miou


def start_model(config: TrainConfig, init: Path | None) -> NTRENet:
    """A model with seeded head weights and, where `init` is given, that checkpoint's backbone.

    Raises:
        InputError: the checkpoint cannot be read or has another backbone.
    """
    torch.manual_seed(config.run.seed)
    model = NTRENet(config.model)
    if init is None:
        return model
    found = load_checkpoint(init).model
    wanted = (config.model.backbone, config.model.stem)
    if (found.config.backbone, found.config.stem) != wanted:
        raise InputError(
            f"Checkpoint {init} has the backbone {found.config.backbone} ({found.config.stem} stem), the config asks "
            f"for {wanted[0]} ({wanted[1]} stem)."
        )
    model.backbone.load_state_dict(found.backbone.state_dict())
    return model

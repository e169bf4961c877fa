"""`ntre train`: a TOML config to a trained checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import note, print_json
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.model.ntrenet import NTRENet
    from ntre_deploy.training.config import TrainConfig


def command(
    config: Annotated[Path, typer.Argument(help="Config of the run (TOML).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; resumes what it finds there.")],
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="SPEC", help="In place of the config's.")] = None,
    fold: Annotated[int | None, typer.Option("--fold", help="In place of the config's.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=1, help="In place of the config's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="In place of the config's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="In place of the config's epochs.")] = None,
    init: Annotated[
        Path | None, typer.Option("--init", help="Checkpoint whose backbone to start from (ntre import-weights).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train NTRENet; killed and started again, it ends as an unbroken run.

    Example: ntre train configs/pascal_resnet50_released.toml --fold 0 --out runs/fold0
    """
    from ntre_deploy.data.dataset import open_dataset
    from ntre_deploy.files import check_folder
    from ntre_deploy.training.config import read_config, with_options
    from ntre_deploy.training.distributed import Processes
    from ntre_deploy.training.trainer import LAST, Trainer

    options = with_options(read_config(config), "data", dataset=dataset, fold=fold, shots=shots)
    options = with_options(with_options(options, "run", seed=seed), "optimiser", steps=steps)
    model = start_model(options, init)
    data = open_dataset(options.data.dataset)
    check_folder(out)
    processes = Processes.join()
    validate = validation(options, data)
    trainer = Trainer(options, data, model, out, validate, processes=processes)

    def report(step: int, figures: dict[str, float]) -> None:
        if processes.first and not as_json:
            parts = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            note(f"step {step}/{trainer.steps}  {parts}")

    trainer.report = report
    try:
        progress = trainer.run()
    finally:
        processes.leave()
    if not processes.first:
        return
    if as_json:
        print_json({"checkpoint": str(out / LAST), "steps": progress.step, "best": progress.best})
    else:
        print(f"wrote {out / LAST} after {progress.step} steps")


def validation(config: "TrainConfig", dataset: "Dataset") -> "Callable[[NTRENet], float] | None":
    """The novel classes' mIoU on fixed episodes of the training dataset; None where they have too few images."""
    from ntre_deploy.data.episodes import sample_episodes
    from ntre_deploy.data.folds import novel_classes
    from ntre_deploy.export.torch_engines import FullNetwork
    from ntre_deploy.runtime.image import InputSpec
    from ntre_deploy.training.evaluator import evaluate
    from ntre_deploy.training.runs import NetworkRun

    data, spec = config.data, InputSpec(config.model.input_size)
    novel = novel_classes(len(dataset.class_names), data.fold, data.split)
    usable = [c for c in novel if len(dataset.images(c)) > data.shots]
    if not usable:
        return None
    count = config.run.validate_episodes
    episodes = sample_episodes(dataset, usable, data.shots, count, config.run.seed, split=data.split, fold=data.fold)
    return lambda model: evaluate(NetworkRun(FullNetwork(model, spec)), dataset, episodes).miou


def start_model(config: "TrainConfig", init: Path | None) -> "NTRENet":
    """A model with seeded head weights and, where `init` is given, that checkpoint's backbone.

    Raises:
        InputError: the checkpoint cannot be read or has another backbone.
    """
    import torch

    from ntre_deploy.model.checkpoint import load_checkpoint
    from ntre_deploy.model.ntrenet import NTRENet

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

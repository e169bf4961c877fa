"""`ntre pretrain`: a backbone from scratch, for `ntre train --init`."""

from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json, training


def command(
    backbone: Annotated[str, typer.Argument(help="squeezenet1_1, efficientnet_lite0, resnet18 or another one.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Checkpoint to write.")],
    dataset: Annotated[
        list[str], typer.Option("--dataset", metavar="SPEC", help="Scenes with dense labels; repeat for more.")
    ],
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of training.")] = 8000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=2, help="Scenes of a step.")] = 16,
    rate: Annotated[float, typer.Option("--rate", metavar="R", help="Learning rate at its height.")] = 3e-3,
    size: Annotated[int, typer.Option("--size", metavar="N", help="Side of the crops: 8k + 1 pixels.")] = 161,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of weights, scenes and crops.")] = 0,
    fp32: Annotated[bool, typer.Option("--fp32", help="No 16-bit products.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a backbone from scratch by naming every object of labelled scenes.

    Example: ntre pretrain squeezenet1_1 --dataset invented:0 --out backbone.safetensors
    """
    from ntre_deploy.data.registry import open_dataset
    from ntre_deploy.errors import InputError
    from ntre_deploy.files import check_ending, check_folder
    from ntre_deploy.model.checkpoint import save_checkpoint
    from ntre_deploy.model.config import NTRENetConfig
    from ntre_deploy.model.weights import import_weights
    from ntre_deploy.training.pretraining import PretrainOptions, pretrain

    check_ending(out, ".safetensors", "Checkpoint name")
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out or remove it.")
    check_folder(out.parent)
    options = PretrainOptions(steps=steps, batch=batch, rate=rate, size=size, seed=seed, bf16=not fp32)
    config = NTRENetConfig(backbone=backbone, input_size=size)  # type: ignore[arg-type]
    datasets = [open_dataset(spec) for spec in dataset]
    model, _ = import_weights(f"random:{seed}", config)
    with training(0, steps, as_json) as report:
        pretrain(model.backbone, datasets, options, report)
    names = " ".join(f"--dataset {d.name}" for d in datasets)
    command = (
        f"ntre pretrain {backbone} {names} --steps {steps} --batch {batch} --rate {rate} --size {size} --seed {seed}"
        + (" --fp32" if fp32 else "")
    )
    save_checkpoint(out, model, {"head": "untrained", "backbone": "trained", "trained_by": command})
    if as_json:
        print_json({"checkpoint": str(out), "steps": steps})
        return
    print(f"wrote {out} ({backbone} after {steps} steps, untrained head); next: ntre train CONFIG --init {out}")

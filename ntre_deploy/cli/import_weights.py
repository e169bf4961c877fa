"""`ntre import-weights`: foreign weights to a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntre_deploy.cli.console import counting, print_json
from ntre_deploy.cli.episodes import StrictOption
from ntre_deploy.errors import InputError, one_of
from ntre_deploy.files import check_ending

if TYPE_CHECKING:
    from ntre_deploy.model.network import FewShotNetwork

# the paper's, and what a light backbone takes in its stride of 32
_NTRENET_SIZE, _SIZE = 473, 385
# episodes that set a threshold
_EPISODES = 100
# what `origin["head"]` says of a head
_STATES = {
    "trained": "trained head",
    "untrained": "untrained head: its masks mean nothing yet",
    "training-free": "training-free head",
}


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights (.pth, .safetensors), torchvision:BACKBONE, package:BACKBONE, random:SEED.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.safetensors).", show_default=False)],
    head: Annotated[str, typer.Option("--head", metavar="NAME", help="Or matcher, refiner.")] = "ntrenet",
    form: Annotated[str, typer.Option("--form", metavar="NAME", help="Or paper.")] = "released",
    backbone: Annotated[str, typer.Option("--backbone", metavar="NAME", help="For random:SEED.")] = "resnet50",
    size: Annotated[
        int | None, typer.Option("--size", metavar="N", help="8k + 1.", show_default="473; other heads 385")
    ] = None,
    stride: Annotated[int | None, typer.Option("--stride", metavar="N", help="efficientnet_lite0: 32, 16, 8.")] = None,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Channels of NTRENet's head.")] = 256,
    bins: Annotated[str, typer.Option("--bins", metavar="N,N", help="Of NTRENet.")] = "60,30,15,8",
    calibrate_on: Annotated[
        str | None,
        typer.Option("--calibrate-on", metavar="SPEC", help="Photos for a matcher's threshold."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of a head without weights.")] = 0,
    strict: StrictOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing checkpoint.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Import a released NTRENet, or a backbone under an untrained head.

    The source is a state dict of the authors' code, a backbone under
    torchvision's names, torchvision:resnet50 (or another; or with a tag,
    torchvision:resnet50:IMAGENET1K_V2), which downloads ImageNet weights, or
    package:efficientnet_lite0. --head matcher makes a head without training.

    Example: ntre import-weights train_epoch_150.pth ntrenet.safetensors
    """
    one_of(form, ("released", "paper"), "Form")
    check_ending(out, ".safetensors", "Checkpoint name")
    if out.exists() and not force:
        raise InputError(f"{out} exists already; choose another OUT or pass --force to replace it.")
    try:
        sides = tuple(int(b) for b in bins.split(","))
    except ValueError as error:
        raise InputError(f"Bins '{bins}' are not whole numbers with commas, such as 60,30,15,8.") from error
    from ntre_deploy.model.config import ModelConfig, NTRENetConfig
    from ntre_deploy.model.heads import HEADS
    from ntre_deploy.model.weights import import_weights

    config: ModelConfig
    size = size or (_NTRENET_SIZE if head == NTRENetConfig.head else _SIZE)
    if one_of(head, HEADS, "Head") == NTRENetConfig.head:
        make = NTRENetConfig.released if form == "released" else NTRENetConfig.paper
        config = make(backbone=backbone, input_size=size, width=width, bins=sides)
    else:
        config = HEADS[head].config.from_dict({"backbone": backbone, "input_size": size, "stride": stride})
    if calibrate_on is not None and not config.training_free:
        raise InputError(f"--calibrate-on is for a head that needs no training; leave it out beside --head {head}.")
    model, origin = import_weights(source, config, seed, stride)
    if calibrate_on is not None:
        origin |= _calibrate(model, calibrate_on, seed, strict)
    from ntre_deploy.model.checkpoint import save_checkpoint

    save_checkpoint(out, model, origin)
    if as_json:
        print_json({"checkpoint": str(out), "config": model.config.to_dict(), "origin": origin})
        return
    print(f"wrote {out} ({model.config.backbone}, {model.config.input_size} pixels, {_STATES[origin['head']]})")


def _calibrate(model: "FewShotNetwork", spec: str, seed: int, strict: bool) -> dict[str, Any]:
    """Set the threshold on one-shot episodes of a dataset; what the checkpoint says of it."""
    from ntre_deploy.data.cached import CachedDataset
    from ntre_deploy.data.episodes import sample_episodes, usable_classes
    from ntre_deploy.data.registry import open_dataset
    from ntre_deploy.training.threshold import calibrate_threshold

    dataset = CachedDataset(open_dataset(spec, strict=strict))
    usable = usable_classes(dataset, dataset.class_names, 1)
    if not usable:
        raise InputError(f"No class of {dataset.name} has the two images that an episode needs; take another dataset.")
    episodes = sample_episodes(dataset, usable, 1, _EPISODES, seed)
    with counting(_EPISODES, "calibrating") as advance:
        miou = calibrate_threshold(model, dataset, episodes, advance)
    return {"calibrated_on": dataset.name, "calibration_miou": round(miou, 4)}

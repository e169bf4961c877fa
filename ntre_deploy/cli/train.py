"""`ntre train`: a TOML config to a trained checkpoint."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.cli.console import note, print_json, reading_masks, training
from ntre_deploy.cli.episodes import StrictOption
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.data.dataset import Dataset
    from ntre_deploy.training.config import DataOptions
    from ntre_deploy.training.episodes import TrainEpisodes

INTERRUPTED = 130


def command(
    config: Annotated[Path, typer.Argument(help="Config of the run (TOML).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Of the run; what is there goes on.")],
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="SPEC", help="In place of the config's.")] = None,
    fold: Annotated[int | None, typer.Option("--fold", metavar="N", help="In place of the config's.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", metavar="N", min=1, help="In place of the config's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="In place of the config's.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="In place of the config's epochs.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="FILE", help="Checkpoint whose backbone to take.")
    ] = None,
    skip_small: Annotated[bool, typer.Option("--skip-small", help="Leave out classes with too few images.")] = False,
    start_from: Annotated[
        Path | None, typer.Option("--start", metavar="FILE", help="Checkpoint whose weights to take.")
    ] = None,
    strict: StrictOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train NTRENet; killed and started again, it ends as an unbroken run.

    A backbone that is not trained (run.backbone) needs weights: those of --init,
    which `ntre import-weights` makes, or of --start.

    Example: ntre train coco.toml --init backbone.safetensors --out runs/0
    """
    from ntre_deploy.data.registry import open_dataset
    from ntre_deploy.files import check_folder
    from ntre_deploy.model.registry import checkpoint_file
    from ntre_deploy.training.config import read_config, with_options
    from ntre_deploy.training.distributed import Processes
    from ntre_deploy.training.start import check_start, provenance, start_model, validation
    from ntre_deploy.training.state import saved_step
    from ntre_deploy.training.trainer import LAST, STATE, Trainer

    options = with_options(read_config(config), "data", dataset=dataset, fold=fold, shots=shots)
    options = with_options(with_options(options, "run", seed=seed), "optimiser", steps=steps)
    if init is not None and start_from is not None:
        raise InputError("--init takes a backbone and --start all weights of a checkpoint; give one of them.")
    init = None if init is None else checkpoint_file(init)
    start_from = None if start_from is None else checkpoint_file(start_from)
    # a run that goes on has its weights in its own state
    if not (out / STATE).exists():
        check_start(options, init, start_from)
    model = start_model(options, init, start_from)
    check_folder(out)
    # without the folders: they belong to this machine, and checkpoints travel
    given = {"fold": fold, "shots": shots, "seed": seed, "steps": steps}
    words = [f"--{name} {value}" for name, value in given.items() if value is not None]
    origin = provenance(" ".join(["ntre train", config.name, *words]), init, start_from)
    processes = Processes.join()
    quiet = as_json or not processes.first
    try:
        with reading_masks(quiet) as reading:
            data = open_dataset(options.data.dataset, progress=reading, strict=strict)
            validate = validation(options, data, strict=strict)
            trainer = Trainer(options, data, model, out, validate, origin, processes=processes, preparing=reading)
            if not skip_small:
                _refuse_small(trainer.episodes, options.data)
        if processes.first:
            _clear(out)
        start = saved_step(out / STATE)
        with training(start, trainer.steps, quiet) as report:
            remarks = [] if quiet else [_held_back(data, options.data)]

            def first_remarks(step: int, figures: dict[str, float]) -> None:
                # not before there is something to report: an error comes alone
                while remarks:
                    if line := remarks.pop():
                        note(line)
                report(step, figures)

            trainer.report = first_remarks
            progress = trainer.run()
    except KeyboardInterrupt:
        if processes.first:
            note(f"interrupted; {_resume(out)}")
        raise SystemExit(INTERRUPTED) from None
    finally:
        processes.leave()
    if not processes.first:
        return
    if as_json:
        print_json({"checkpoint": str(out / LAST), "steps": progress.step, "best": progress.best})
        return
    best = "" if progress.best is None else f", best novel mIoU {100 * progress.best:.1f}"
    print(f"wrote {out / LAST} after {progress.step} steps{best}")


# a longer list is cut
_NAMES = 20


def _held_back(dataset: "Dataset", data: "DataOptions") -> str:
    """One line about the classes that training never shows, which evaluation may draw; empty where there are none."""
    from ntre_deploy.data.folds import novel_classes
    from ntre_deploy.training.config import ALL

    if data.split == ALL:
        return ""
    names = [dataset.class_names[c] for c in novel_classes(len(dataset.class_names), data.fold, data.split)]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"held back (fold {data.fold}, {data.split}), new in evaluation: {', '.join(names[:_NAMES])}{more}"


def _refuse_small(episodes: "TrainEpisodes", data: "DataOptions") -> None:
    """Refuse base classes that have too few images to be trained on, which `episodes` leaves out."""
    from ntre_deploy.data.folds import novel_classes
    from ntre_deploy.training.config import ALL

    dataset, needed = episodes.dataset, data.shots + 1
    names = dataset.class_names
    held_back = () if data.split == ALL else novel_classes(len(names), data.fold, data.split)
    small = [c for c in names if c not in episodes.images and c not in held_back]
    if not small:
        return
    shown = ", ".join(f"'{names[c]}' {len(dataset.images(c))}" for c in small[:4])
    more = f" and {len(small) - 4} more" if len(small) > 4 else ""
    raise InputError(
        f"Classes of {dataset.name} have fewer than {needed} images with enough target, which {data.shots} shots and a "
        f"query need: {shown}{more}; add images, lower --shots, or pass --skip-small to train without them."
    )


def _clear(out: Path) -> None:
    """Remove what a kill in the middle of a save left behind: files are written under other names first."""
    # the second is safetensors' own
    for pattern in (".*.partial-*", ".tmp??????"):
        for path in out.glob(pattern):
            if path.is_file():
                path.unlink(missing_ok=True)


def _resume(out: Path) -> str:
    """What a user does next about a run that ended early."""
    from ntre_deploy.training.state import saved_step
    from ntre_deploy.training.trainer import STATE

    command = shlex.join(["ntre", *sys.argv[1:]])
    if step := saved_step(out / STATE):
        return f"{out} holds the state of step {step}; go on from there with: {command}"
    return f"nothing was saved yet; start anew with: {command}"

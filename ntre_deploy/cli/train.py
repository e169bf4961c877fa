"""`ntre train`: a TOML config to a trained checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import note, print_json


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
    from ntre_deploy.training.start import start_model, validation
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

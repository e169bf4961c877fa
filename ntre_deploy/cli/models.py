"""`ntre models`: what checkpoints can be had by name."""

from typing import Annotated

import typer

from ntre_deploy.cli.console import print_json


def command(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> None:
    """List the models that can be had by name, wherever a checkpoint is asked for.

    Each is a checkpoint: ntre export photos --out photos.ntre

    Example: ntre models --json
    """
    from ntre_deploy.model.registry import MODELS

    if as_json:
        print_json({name: {"about": model.about, "missing": model.missing} for name, model in MODELS.items()})
        return
    width = max(map(len, MODELS))
    for name, model in MODELS.items():
        print(f"{name:{width}}  {model.about}" + (f"  (needs: {model.missing})" if model.missing else ""))

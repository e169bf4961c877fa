"""`ntre download`: the images and masks of PASCAL-5i."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ntre_deploy.cli.console import note, print_json
from ntre_deploy.errors import one_of

_DATASETS = ("voc", "sbd")


def command(
    dataset: Annotated[str, typer.Argument(help="voc, and then sbd for the split train.", show_default=False)],
    folder: Annotated[
        Path, typer.Argument(help="Folder VOC2012: new for voc, the same again for sbd.", show_default=False)
    ],
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Archive that is here already, in place of a download.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Download VOC 2012 (2 GB), or join the masks of SBD (1.4 GB) with it; needs the extra `train`.

    After `voc`, pascal:FOLDER@val is a dataset; after `sbd` pascal:FOLDER@train is one too.

    Example: ntre download voc VOC2012
    """
    one_of(dataset, _DATASETS, "Dataset")
    from ntre_deploy.data.download import download_sbd, download_voc

    # a spinner would swallow torchvision's own progress bar
    step = note if sys.stderr.isatty() and not as_json else lambda line: None
    spec = (download_voc if dataset == "voc" else download_sbd)(folder, archive, step)
    if as_json:
        print_json({"dataset": spec})
        return
    print(f"wrote {folder}; use --dataset {spec}")

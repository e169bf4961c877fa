"""Options of every command that builds plans, and how it tells of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.runtime.manifest import FileEntry

_PANEL = "TensorRT (--engine trt, trt-rtx)"

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--sm",
        metavar="CC",
        help="Compute capability to build for, such as 8.6; repeatable (trt-rtx).",
        show_default="the GPU here",
        rich_help_panel=_PANEL,
    ),
]
MaxBatch = Annotated[int, typer.Option("--max-batch", help="Most images in one call.", rich_help_panel=_PANEL)]
MaxClasses = Annotated[int, typer.Option("--max-classes", help="Most classes in one call.", rich_help_panel=_PANEL)]
MaxShots = Annotated[int, typer.Option("--max-shots", help="Most shots of a class.", rich_help_panel=_PANEL)]
Workspace = Annotated[
    int | None,
    typer.Option("--workspace", metavar="MIB", help="Memory that a build may use.", rich_help_panel=_PANEL),
]
Effort = Annotated[
    int | None, typer.Option("--effort", help="Of the optimiser, 0 (fast build) to 5.", rich_help_panel=_PANEL)
]
Hardware = Annotated[
    str,
    typer.Option(
        "--hardware", help="Also run on: none, ampere-plus, same-compute-capability (trt).", rich_help_panel=_PANEL
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option("--version-compatible", help="Also run in later versions of TensorRT (trt).", rich_help_panel=_PANEL),
]
EngineCache = Annotated[
    Path | None,
    typer.Option(
        "--engine-cache",
        metavar="DIR",
        help="Folder of engines built before.",
        show_default="ntre_deploy/engines in the user's cache",
        rich_help_panel=_PANEL,
    ),
]
NoEngineCache = Annotated[
    bool, typer.Option("--no-engine-cache", help="Build every engine anew.", rich_help_panel=_PANEL)
]


def chosen_cache(folder: Path | None, without: bool) -> Path | None:
    """The folder of engines built before, or None.

    Raises:
        InputError: both options were given.
    """
    from ntre_deploy.plans.options import default_cache

    if folder is not None and without:
        raise InputError("--engine-cache and --no-engine-cache exclude each other; leave one out.")
    return None if without else folder or default_cache()


def tell_plan(file: "FileEntry") -> None:
    """Print a line about a plan that was built."""
    here = file.details["run_here"]
    run = "" if here == "yes" else f"; not run here: {here}"
    print(f"{file.name}: {file.precision_found} (found by the {file.details['found_by']}){run}")

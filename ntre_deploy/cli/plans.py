"""Options of every command that builds plans, and how it tells of them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ntre_deploy.cli.grouped import option
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.plans.options import TensorRtOptions
    from ntre_deploy.runtime.manifest import FileEntry

_PANEL = "TensorRT (--engine trt, trt-rtx)"
_option = partial(option, _PANEL)


@dataclass(frozen=True)
class PlanOptions:
    """The options of commands that build plans; see `grouped`."""

    sm: Annotated[
        list[str] | None,
        _option(
            "--sm",
            "CC",
            "Compute capability to build for, such as 8.6; repeatable (trt-rtx).",
            show_default="the GPU here",
        ),
    ] = None
    max_batch: Annotated[int, _option("--max-batch", None, "Most images in one call.")] = 4
    max_classes: Annotated[int, _option("--max-classes", None, "Most classes in one call.")] = 10
    max_shots: Annotated[int, _option("--max-shots", None, "Most shots of a class.")] = 5
    workspace: Annotated[int | None, _option("--workspace", "MIB", "Memory that a build may use.")] = None
    effort: Annotated[int | None, _option("--effort", None, "Of the optimiser, 0 (fast build) to 5.")] = None
    hardware: Annotated[
        str, _option("--hardware", None, "Also run on: none, ampere-plus, same-compute-capability (trt).")
    ] = "none"
    version_compatible: Annotated[
        bool, _option("--version-compatible", None, "Also run in later versions of TensorRT (trt).")
    ] = False
    engine_cache: Annotated[
        Path | None,
        _option(
            "--engine-cache",
            "DIR",
            "Folder of engines built before.",
            show_default="ntre_deploy/engines in the user's cache",
        ),
    ] = None
    no_engine_cache: Annotated[bool, _option("--no-engine-cache", None, "Build every engine anew.")] = False

    def chosen(self) -> "TensorRtOptions":
        """What they ask for.

        Raises:
            InputError: a folder of engines was given, and that there be none; or as `TensorRtOptions`.
        """
        from ntre_deploy.plans.options import TensorRtOptions, default_cache

        if self.engine_cache is not None and self.no_engine_cache:
            raise InputError("--engine-cache and --no-engine-cache exclude each other; leave one out.")
        return TensorRtOptions(
            tuple(self.sm or ()),
            self.max_batch,
            self.max_classes,
            self.max_shots,
            self.workspace,
            self.effort,
            self.hardware,
            self.version_compatible,
            None if self.no_engine_cache else self.engine_cache or default_cache(),
        )


def tell_plan(file: "FileEntry") -> None:
    """Print a line about a plan that was built."""
    here = file.details["run_here"]
    run = "" if here == "yes" else f"; not run here: {here}"
    print(f"{file.name}: {file.precision_found} (found by the {file.details['found_by']}){run}")

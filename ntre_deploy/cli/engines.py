"""Options by which commands take an engine of a bundle, and what they mean together."""

from typing import Annotated

import typer

from ntre_deploy.errors import InputError

PANEL = "Engine of a bundle"
# an engine's name may bear its precision everywhere, as the bench's table shows them
NAME = "NAME[:PRECISION]"

EngineOption = Annotated[
    str, typer.Option("--engine", metavar=NAME, help="trt, openvino, onnx-cuda, onnx-cpu ...", rich_help_panel=PANEL)
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="NAME", help="Such as fp32.", show_default="the engine's best", rich_help_panel=PANEL
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="CPU threads.", show_default="the engine's", rich_help_panel=PANEL
    ),
]


def one_engine(engine: str, precision: str | None) -> tuple[str, str | None]:
    """The engine and the precision that `--engine` and `--precision` of a command ask for together.

    Args:
        engine: `NAME` or `NAME:PRECISION`.

    Raises:
        InputError: both name a precision, and not the same.
    """
    name, _, own = engine.partition(":")
    if own and precision is not None and own != precision:
        raise InputError(f"--engine {engine} and --precision {precision} contradict each other; leave one out.")
    return name, own or precision

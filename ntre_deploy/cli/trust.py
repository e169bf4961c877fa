"""The option by which a command demands a signed bundle."""

from pathlib import Path
from typing import Annotated

import typer

TrustedOption = Annotated[
    list[Path] | None,
    typer.Option("--trusted", metavar="KEY", help="Demand its signature; repeatable.", show_default=False),
]

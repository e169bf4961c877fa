"""One parameter of a command for several options: what Typer sees of it, and what the command gets."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ntre_deploy.cli.grouped import grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--width", min=1, help="Of it.")] = 4
    deep: Annotated[bool, typer.Option("--deep")] = False


@dataclass(frozen=True)
class Wide(Size):
    width: Annotated[int, typer.Option("--width", help="Much.")] = 400


@pytest.fixture
def app() -> tuple[typer.Typer, list[object]]:
    found: list[object] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def small(name: Annotated[str, typer.Argument()], *, size: Size, last: Annotated[int, typer.Option()] = 7) -> None:
        """Small ones."""
        found.append((name, size, last))

    @app.command()
    @grouped
    def wide(*, size: Wide) -> None:
        found.append(size)

    return app, found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["small", "a"], ("a", Size(), 7)),
        (["small", "--deep", "a", "--last", "1", "--width", "9"], ("a", Size(9, True), 1)),
        (["wide"], Wide(400, False)),
        (["wide", "--width", "-3"], Wide(-3)),
    ],
)
def test_the_fields_are_options(app: tuple[typer.Typer, list[object]], line: list[str], expected: object) -> None:
    commands, found = app
    assert CliRunner().invoke(commands, line).exit_code == 0
    assert found == [expected]


def test_they_are_checked_and_shown_where_they_stand(app: tuple[typer.Typer, list[object]]) -> None:
    commands, found = app
    assert CliRunner().invoke(commands, ["small", "a", "--width", "0"]).exit_code == 2
    assert found == []
    text = CliRunner().invoke(commands, ["small", "--help"]).output
    assert "Small ones." in text
    assert text.index("--width") < text.index("--deep") < text.index("--last")


def test_a_program_may_leave_options_out() -> None:
    found: list[object] = []

    @grouped
    def small(name: str, *, size: Size) -> None:
        found.append((name, size))

    small("a", deep=True)
    small(name="b")
    assert found == [("a", Size(4, True)), ("b", Size())]

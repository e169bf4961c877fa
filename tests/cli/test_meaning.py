"""Other tools' names for options lead to ours, and nothing leads astray."""

import pytest
import typer

from ntre_deploy.cli import meaning
from ntre_deploy.cli.main import app
from ntre_deploy.cli.meaning import meant

_GROUP = typer.main.get_command(app)
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in _GROUP.commands.items()  # type: ignore[attr-defined]
} | {"": {option for parameter in _GROUP.params for option in parameter.opts}}


def test_every_name_of_another_tool_leads_to_an_option_that_is_there() -> None:
    everything = set().union(*OPTIONS.values())
    for words, names in meaning._NAMES.items():
        assert set(names) <= everything, names
        for word in words:
            assert any(meant(word, options) in names for options in OPTIONS.values()), word


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_an_option_that_is_there_is_never_replaced(command: str) -> None:
    for option in OPTIONS[command]:
        assert meant(option, OPTIONS[command]) == option


@pytest.mark.parametrize(
    ("given", "command", "wanted"),
    [
        ("--suport", "segment", "--support"),
        ("--imgsz", "export", "--size"),
        ("--lr", "tune", "--rate"),
        ("--weights", "train", "--start"),
        ("--weights", "bench", "--checkpoint"),
        ("--half", "segment", "--precision"),
        ("--gpu", "export", "--engine"),
        ("--gpu", "models", None),
        ("--nonsense", "segment", None),
        ("--xyz", "export", None),
    ],
)
def test_what_is_meant(given: str, command: str, wanted: str | None) -> None:
    assert meant(given, OPTIONS[command]) == wanted

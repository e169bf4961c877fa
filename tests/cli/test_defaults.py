"""Defaults are shown in one way, and options that several commands have mean the same in each."""

from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
import typer

from ntre_deploy.cli.engines import one_engine
from ntre_deploy.cli.main import app
from ntre_deploy.errors import InputError

Done = CompletedProcess[str]

GROUP = typer.main.get_group(app)
SAME = ("segment", "eval", "studio")


def options() -> Iterator[tuple[str, Any]]:
    for name, command in GROUP.commands.items():
        yield from ((name, option) for option in command.params if option.param_type_name == "option")


@pytest.mark.parametrize(("command", "option"), [pytest.param(c, o, id=f"{c} {o.opts[0]}") for c, o in options()])
def test_the_default_is_told_by_typer_and_not_in_words(command: str, option: Any) -> None:
    text = option.help or ""
    assert "default" not in text.lower()
    assert not text.rstrip(".").endswith(")") or "(trt" in text or "fast" in text, text
    if option.default not in (None, False, ()) and not option.required:
        assert option.show_default is not False


def test_help_tells_the_default_that_is_a_value_and_the_one_that_is_worked_out(
    call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = call("segment", "--help").stdout
    for text in ("[default: segmented]", "[default: auto]", "[default: (the engine's best)]"):
        assert text in told


@pytest.mark.parametrize("name", ["--engine", "--precision", "--threads", "--trusted"])
def test_options_of_engines_are_the_same_in_every_command_that_runs_one(name: str) -> None:
    found = [(o.help, o.metavar, o.default, o.show_default) for c, o in options() if name in o.opts and c in SAME]
    assert len(found) == len(SAME)
    assert len(set(map(str, found))) == 1


def test_an_engines_name_may_bear_its_precision() -> None:
    assert one_engine("auto", None) == ("auto", None)
    assert one_engine("onnx-cpu", "fp16") == ("onnx-cpu", "fp16")
    assert one_engine("onnx-cpu:fp16", None) == one_engine("onnx-cpu:fp16", "fp16") == ("onnx-cpu", "fp16")
    assert one_engine("onnx-cpu:", "fp32") == ("onnx-cpu", "fp32")
    with pytest.raises(InputError, match="contradict"):
        one_engine("onnx-cpu:fp16", "fp32")

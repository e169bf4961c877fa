"""`ntre train` as a user runs it: a config to a checkpoint that evaluates, and bad input refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def config(config: Path) -> Path:
    """Three steps, the last behind a save, and a validation on the way."""
    text = (
        config.read_text().replace("steps = 4", "steps = 3").replace("validate_episodes = 2", "validate_episodes = 6")
    )
    config.write_text(text + "validate_every = 2\n")
    return config


def test_a_run_writes_checkpoints_a_log_and_what_it_held_back(
    here: Path, config: Path, call: Callable[..., Any]
) -> None:
    done = call("train", config, "--fold", "2", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["steps"] == 3
    assert 0 <= told["best"] <= 1
    names = {p.name for p in (here / "run").iterdir()}
    assert names == {"state.safetensors", "last.safetensors", "best.safetensors", "log.csv"}
    again = call("train", config, "--fold", "2", "--out", "run", "--json")  # nothing is left to do
    assert again.returncode == 0, again.stderr
    result = call("eval", "run/last.safetensors", "--fold", "2", "--count", "6", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["model"]["origin"]["fold"] == 2
    assert report["model"]["origin"]["dataset"] == "procedural:3"
    assert "procedural:3" not in json.dumps(report["model"]["origin"]["config"]), "specs may hold paths"


def test_another_config_does_not_continue_a_run(
    config: Path, call: Callable[..., Any], refused: Callable[..., str]
) -> None:
    assert call("train", config, "--out", "run", "--json").returncode == 0
    assert "data.fold: 0 there, 1 here" in refused("train", config, "--fold", "1", "--out", "run")


def test_a_backbone_of_another_kind_is_refused(
    config: Path, tiny: SimpleNamespace, call: Callable[..., Any], refused: Callable[..., str]
) -> None:
    assert call("train", config, "--init", tiny.checkpoint, "--out", "run", "--json").returncode == 0
    config.write_text(config.read_text().replace("squeezenet1_1", "vgg16_bn"))
    assert "squeezenet1_1" in refused("train", config, "--init", tiny.checkpoint, "--out", "other")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope.toml", "--out", "run"), "nope.toml"),
        (("small.toml", "--out", "small.toml/run"), "small.toml"),
        (("small.toml", "--out", "run", "--dataset", "procedurl"), "Did you mean 'procedural'"),
        (("small.toml", "--out", "run", "--fold", "7"), "Fold 7"),
        (("small.toml", "--out", "run", "--shots", "5000"), "fewer shots"),
        (("small.toml",), "--out"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    config: Path, refused: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused("train", *arguments)


def test_a_frozen_backbone_without_weights_is_refused_and_one_with_weights_goes_on_without_naming_them_again(
    config: Path, tiny: SimpleNamespace, call: Callable[..., Any], refused: Callable[..., str]
) -> None:
    text = config.read_text()
    for mode in ("", 'backbone = "drift"\n'):
        config.write_text(text.replace('backbone = "finetune"\n', mode))
        message = refused("train", config, "--out", "run")
        assert "--init" in message
        assert 'run.backbone = "finetune"' in message
    config.write_text(text.replace('backbone = "finetune"\n', ""))
    assert call("train", config, "--init", tiny.checkpoint, "--out", "run", "--steps", "2", "--json").returncode == 0
    assert call("train", config, "--out", "run", "--steps", "2", "--json").returncode == 0

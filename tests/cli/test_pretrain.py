"""`ntre pretrain` as a user runs it: a backbone that `ntre train --init` takes, and bad input refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = ("pretrain", "squeezenet1_1", "--dataset", "procedural:3", "--steps", "2", "--batch", "2", "--size", "33")


def test_a_backbone_from_scratch_starts_a_run(here: Path, config: Path, call: Callable[..., Any]) -> None:
    done = call(*RUN, "--out", "backbone.safetensors")
    assert done.returncode == 0, done.stderr
    assert "ntre train CONFIG --init backbone.safetensors" in done.stdout
    assert "step 2/2" in done.stderr
    trained = call("train", config, "--init", "backbone.safetensors", "--out", "run", "--json")
    assert trained.returncode == 0, trained.stderr
    result = call("eval", "run/last.safetensors", "--count", "2", "--json")
    made_from = json.loads(result.stdout)["model"]["origin"]["backbone_from"]
    assert made_from["trained_by"] == (
        "ntre pretrain squeezenet1_1 --dataset procedural:3 --steps 2 --batch 2 --rate 0.003 --size 33 --seed 0"
    )


def test_json_alone_is_printed(here: Path, call: Callable[..., Any]) -> None:
    done = call(*RUN, "--out", "b.safetensors", "--fp32", "--json")
    assert json.loads(done.stdout) == {"checkpoint": "b.safetensors", "steps": 2}
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("pretrain", "squeezenet1_1", "--dataset", "procedural:3", "--out", "b.pth"), "b.safetensors"),
        (("pretrain", "squeezenet", "--dataset", "procedural:3", "--out", "b.safetensors"), "squeezenet1_1"),
        (("pretrain", "squeezenet1_1", "--dataset", "nope:3", "--out", "b.safetensors"), "nope"),
        ((*RUN, "--out", "b.safetensors", "--size", "32"), "33"),
        ((*RUN, "--out", "b.safetensors", "--rate", "0"), "rate"),
        ((*RUN, "--out", "there.safetensors"), "there.safetensors exists"),
        (("pretrain", "squeezenet1_1", "--out", "b.safetensors"), "--dataset"),
    ],
)
def test_bad_input_is_refused(here: Path, refused: Callable[..., str], arguments: tuple[str, ...], word: str) -> None:
    (here / "there.safetensors").write_bytes(b"kept")
    assert word in refused(*arguments)
    assert (here / "there.safetensors").read_bytes() == b"kept"
    assert not (here / "b.safetensors").exists()

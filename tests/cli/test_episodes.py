"""The options that choose episodes, and an episode file that has its own."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.cli.episodes import Draw, open_episodes
from ntre_deploy.errors import InputError


def test_an_absent_file_is_written_and_a_present_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    _, drawn = open_episodes(Draw("procedural:5", path, shots=2, count=3, seed=4, fold=1))
    _, again = open_episodes(Draw("procedural:5", path))
    assert again == drawn
    assert (again.shots, len(again.episodes), again.seed, again.fold, again.split) == (2, 3, 4, 1, "interleaved")
    _, same = open_episodes(Draw("procedural:5", path, shots=2, count=3, seed=4, fold=1, split="interleaved"))
    assert same == drawn


@pytest.mark.parametrize(
    ("option", "value"), [("shots", 5), ("count", 50), ("seed", 9), ("fold", 2), ("split", "contiguous")]
)
def test_an_option_that_the_file_contradicts_is_refused(tmp_path: Path, option: str, value: object) -> None:
    path = tmp_path / "set.jsonl"
    open_episodes(Draw("procedural:5", path, count=2, fold=1))
    with pytest.raises(InputError, match=f"--{option} {value} was asked for"):
        open_episodes(Draw("procedural:5", path, **{option: value}))  # type: ignore[arg-type]


def test_a_file_of_another_dataset_is_refused(tmp_path: Path) -> None:
    open_episodes(Draw("procedural:5", tmp_path / "set.jsonl", count=2))
    with pytest.raises(InputError, match="procedural:5"):
        open_episodes(Draw("procedural:6", tmp_path / "set.jsonl"))


def test_defaults_fill_what_nobody_said() -> None:
    _, drawn = open_episodes(Draw("procedural:5", default_count=7))
    assert (drawn.shots, len(drawn.episodes), drawn.seed, drawn.fold) == (1, 7, 0, None)


@pytest.fixture
def folder(here: Path) -> str:
    """Spec of a dataset whose class `rare` has one image, and `often` three."""
    for name, count in (("often", 3), ("rare", 1)):
        for kind in ("images", "masks"):
            (here / "set" / name / kind).mkdir(parents=True)
        for k in range(count):
            pixels = np.random.default_rng(k).integers(0, 256, (80, 100, 3), dtype=np.uint8)
            mask = np.zeros((80, 100), np.uint8)
            mask[10:70, 10:90] = 1
            Image.fromarray(pixels).save(here / "set" / name / "images" / f"{k}.png")
            Image.fromarray(mask).save(here / "set" / name / "masks" / f"{k}.png")
    return "folder:set"


_LEFT_OUT = "1 class of folder:set left out, with fewer than the 2 images that 1 shots and a query need: 'rare' 1"


def test_a_class_with_too_few_images_is_left_out_with_a_warning(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, drawn = open_episodes(Draw(folder, count=4))
    assert {e.class_name for e in drawn.episodes} == {"often"}
    assert capsys.readouterr().err == f"warning: {_LEFT_OUT}\n"
    open_episodes(Draw(folder, count=4, quiet=True))
    assert capsys.readouterr().err == ""


def test_eval_tells_of_classes_that_it_left_out(folder: str, tiny: SimpleNamespace, call: Callable[..., Any]) -> None:
    for arguments in ((), ("--episodes", "set.jsonl")):
        done = call("eval", tiny.bundle, "--dataset", folder, "--count", "2", "--json", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert _LEFT_OUT in json.loads(done.stdout)["warnings"]
    done = call("eval", tiny.bundle, "--dataset", folder, "--count", "2")
    assert f"warning: {_LEFT_OUT}" in done.stdout.splitlines()

"""The options that choose episodes, and an episode file that has its own."""

from pathlib import Path

import pytest

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

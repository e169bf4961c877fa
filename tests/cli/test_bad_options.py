"""Option values of export, segment and bench that cannot be used, and folders that cannot be written."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Done = subprocess.CompletedProcess[str]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--precision", "fp23"), ("'fp23'", "fp32, fp16", "Did you mean")),
        (("--engine", "onxx"), ("'onxx'", "Did you mean 'onnx'")),
        (("--out", "x.nter"), ("x.nter", ".ntre")),
        (("--size", "64"), ("64", "65")),
        (("--size", "-7"), ("-7",)),
        (("--opset", "17"), ("17", "18")),
        (("--opset", "99"), ("99", "23")),
        (("--verify-on", "procedral"), ("'procedral'", "Did you mean 'procedural'")),
        (("--verify-on", "folder:/no/such"), ("/no/such",)),
        (("--verify-on", "."), ("folder:.",)),
        (("--out", "/proc/x.ntre"), ("/proc/x.ntre",)),
        (("--out", "a_file/x.ntre"), ("a_file/x.ntre",)),
    ],
)
def test_wrong_options_of_export_are_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    (here / "a_file").write_text("mine")
    message = refused("export", tiny.checkpoint, *arguments)
    assert all(word in message for word in words), message


def test_a_bundle_that_is_there_is_kept_without_force(
    tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    (here / "mine.ntre").mkdir()
    (here / "mine.ntre" / "notes.txt").write_text("mine")
    assert "--force" in refused("export", tiny.checkpoint, "--out", "mine.ntre")


def test_an_export_without_a_checkpoint_names_it(refused: Callable[..., str]) -> None:
    assert "nope.safetensors" in refused("export", "nope.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "onx"), ("'onx'", "Did you mean 'onnx'")),
        (("--engine", "onnx_cpu"), ("'onnx_cpu'", "Did you mean 'onnx-cpu'")),
        (("--precision", "fp23"), ("fp23", "fp32")),
        (("--threads", "0"), ("--threads",)),
    ],
)
def test_wrong_options_of_segment_are_refused(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    refused: Callable[..., str],
) -> None:
    message = refused("segment", tiny.bundle, pictures.photo, "-s", support, *arguments)
    assert all(word in message for word in words), message


def test_a_misspelt_precision_of_segment_gets_a_suggestion(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    message = refused("segment", tiny.bundle, pictures.photo, "-s", support, "--precision", "fp23")
    assert "Did you mean 'fp32'" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "procedrual"), ("'procedrual'", "Did you mean 'procedural'")),
        (("--dataset", "procedural:x"), ("procedural:x", "procedural:7")),
        (("--dataset", "coco:nope.json"), ("nope.json",)),
        (("--split", "intrleaved"), ("'intrleaved'", "Did you mean 'interleaved'")),
        (("--fold", "7"), ("7", "3")),
        (("--fold", "-1"), ("-1",)),
        (("--shots", "5000"), ("5000",)),
        (("--seed", "99999999999"), ("99999999999",)),
        (("--episodes", "words.txt"), ("words.txt",)),
        (("--episodes", "a_file/set.jsonl"), ("a_file/set.jsonl",)),
        (("--episodes", "."), ("--episodes",)),
    ],
)
def test_wrong_options_of_bench_are_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    (here / "words.txt").write_text("words\n")
    (here / "a_file").write_text("mine")
    if arguments == ("--episodes", "."):
        words = (".",)
    message = refused("bench", tiny.bundle, *arguments)
    assert all(word in message for word in words), message


def test_episodes_of_another_dataset_are_refused(
    tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    from ntre_deploy.data.episodes import sample_episodes, write_episodes
    from ntre_deploy.data.registry import open_dataset

    write_episodes(here / "set.jsonl", sample_episodes(open_dataset("procedural:1"), [0, 1], 1, 2, 0))
    message = refused("bench", tiny.bundle, "--episodes", "set.jsonl")
    assert "procedural:1" in message
    assert "procedural:0" in message


@pytest.mark.parametrize("place", ["/proc/x", "a_file/x"])
def test_masks_cannot_be_written_there(
    place: str,
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    here: Path,
    refused: Callable[..., str],
) -> None:
    (here / "a_file").write_text("mine")
    for option in ("--out", "--save-memory"):
        message = refused("segment", tiny.bundle, pictures.photo, "-s", support, option, place, "--json")
        assert place in message


def test_a_report_cannot_be_written_there(tiny: SimpleNamespace, here: Path, refused: Callable[..., str]) -> None:
    (here / "a_file").write_text("mine")
    message = refused("bench", tiny.bundle, "--count", "1", "--threads", "1", "--out", "a_file/report")
    assert "a_file/report" in message


def test_bench_looks_at_its_out_folder_before_it_measures(
    tiny: SimpleNamespace, here: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "a_file").write_text("mine")
    measured: list[Any] = []
    monkeypatch.setattr("ntre_deploy.bench.session.measure", lambda *a, **k: measured.append(a))
    refused("bench", tiny.bundle, "--count", "1", "--threads", "1", "--out", "a_file/report", "--json")
    assert measured == []


def test_a_disk_that_fills_up_leaves_no_half_mask_or_memory(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    here: Path,
    full_disk: Callable[[int], Any],
    call: Callable[..., Done],
) -> None:
    with full_disk(50):
        for more in ((), ("--save-memory", "m")):
            done = call("segment", tiny.bundle, pictures.photo, "-s", support, "--out", "o", "--json", *more)
            assert done.returncode == 2, done.stderr
            assert done.stderr.startswith("error: Cannot write ")
            assert done.stderr.count("\n") == 1
    assert [p for p in here.rglob("*") if not p.is_dir()] == []

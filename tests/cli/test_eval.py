"""`ntre eval` as a user runs it: a checkpoint and its bundle on the same episodes."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.episodes import read_episodes

Done = subprocess.CompletedProcess[str]

FEW = ("--count", "6", "--fold", "2", "--threads", "1")


def counts_of(folder: Path) -> list[list[int]]:
    with (folder / "episodes.csv").open(newline="") as file:
        return [[int(row[name]) for name in ("tp", "fp", "fn", "tn")] for row in csv.DictReader(file)]


@pytest.fixture
def evaluated(call: Callable[..., Done], tiny: SimpleNamespace, here: Path) -> SimpleNamespace:
    """The tiny checkpoint, then its bundle, on one episode file."""
    results = {}
    for name, target in (("checkpoint", tiny.checkpoint), ("bundle", tiny.bundle)):
        done = call("eval", target, *FEW, "--episodes", "set.jsonl", "--out", name)
        assert (done.returncode, done.stderr) == (0, "")
        results[name] = SimpleNamespace(
            said=done.stdout, folder=here / name, report=json.loads((here / name / "eval.json").read_text())
        )
    return SimpleNamespace(**results, episodes=here / "set.jsonl")


def test_a_checkpoint_and_its_bundle_agree(evaluated: SimpleNamespace) -> None:
    checkpoint, bundle = evaluated.checkpoint, evaluated.bundle
    ours, theirs = counts_of(checkpoint.folder), counts_of(bundle.folder)
    assert len(ours) == 6
    # a pixel on the very border may fall to either side in fp32
    assert max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)) <= 2
    for key in ("miou", "fb_iou", "precision"):
        assert checkpoint.report["results"][key] == pytest.approx(bundle.report["results"][key], abs=1e-4)
    assert checkpoint.report["episodes"] == bundle.report["episodes"]
    model, exported = checkpoint.report["model"], bundle.report["model"]
    assert (model["kind"], exported["kind"]) == ("checkpoint", "bundle")
    for key in ("checkpoint_sha256", "config", "input_size", "origin"):
        assert model[key] == exported[key]
    assert checkpoint.report["engine"] == {"name": "pytorch", "precision": "fp32", "threads": 1}
    assert (bundle.report["engine"]["name"], bundle.report["engine"]["precision"]) == ("onnx-cpu", "fp32")


def test_the_report_tells_how_it_came_about(evaluated: SimpleNamespace) -> None:
    report = evaluated.checkpoint.report
    assert (report["format"], report["version"], report["protocol"]) == ("ntre-eval", 1, "exact")
    assert report["command"].startswith("ntre eval ")
    assert "--fold 2" in report["command"]
    drawn = read_episodes(evaluated.episodes)
    assert report["episodes"]["sha256"] == drawn.hash
    assert (report["episodes"]["fold"], report["episodes"]["count"]) == (2, 6)
    assert {row["class"] for row in report["results"]["classes"]} == {e.class_id for e in drawn.episodes}
    assert report["environment"]["threads"] == 1
    assert report["environment"]["versions"]["ntre_deploy"]


def test_the_terminal_shows_classes_means_warnings_and_files(evaluated: SimpleNamespace) -> None:
    said = evaluated.checkpoint.said
    assert said.startswith(
        "tiny.safetensors on pytorch fp32: 1-shot, 6 episodes of procedural:0, fold 2 (interleaved), protocol exact\n"
    )
    for row in evaluated.checkpoint.report["results"]["classes"]:
        assert row["name"] in said
    for text in ("mIoU", "FB-IoU", "precision", "95% interval", "warning: the head of this model is untrained"):
        assert text in said
    for text in ("eval.json", "episodes.csv", "sheet.png"):
        assert str(Path("checkpoint") / text) in said


def test_only_a_checkpoint_shows_the_maps_on_the_way(evaluated: SimpleNamespace) -> None:
    for part, columns in ((evaluated.checkpoint, 7), (evaluated.bundle, 4)):
        with Image.open(part.folder / "sheet.png") as image:
            image.load()
            assert image.size == (columns * 248 + 8, 28 + 6 * 188 + 8)
            assert image.mode == "RGB"


def test_json_is_the_report_alone_and_nothing_is_written(
    call: Callable[..., Done], tiny: SimpleNamespace, here: Path
) -> None:
    done = call("eval", tiny.bundle, *FEW, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["episodes"]["count"] == 6
    assert 0 <= report["results"]["miou"]["value"] <= 1
    assert list(here.iterdir()) == []


def test_the_same_command_gives_the_same_figures(call: Callable[..., Done], tiny: SimpleNamespace) -> None:
    first, second = (json.loads(call("eval", tiny.bundle, *FEW, "--json").stdout)["results"] for _ in range(2))
    assert first == second
    other = json.loads(call("eval", tiny.bundle, *FEW, "--seed", "1", "--json").stdout)["results"]
    assert other != first


def test_shots_and_pictures_are_options(call: Callable[..., Done], tiny: SimpleNamespace, here: Path) -> None:
    done = call("eval", tiny.checkpoint, *FEW, "--shots", "2", "--pictures", "0", "--out", "o")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (here / "o").iterdir()) == ["episodes.csv", "eval.json"]
    assert json.loads((here / "o" / "eval.json").read_text())["episodes"]["shots"] == 2


def test_a_bundle_is_evaluated_without_torch(
    ntre: Callable[..., Done], without: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    done = ntre("eval", tiny.bundle, *FEW, "--json", cwd=tmp_path, blocked=without("torch", "onnx", "onnxscript"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["engine"]["name"] == "onnx-cpu"


def test_a_checkpoint_without_torch_says_what_to_install(
    ntre: Callable[..., Done], without: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    done = ntre("eval", tiny.checkpoint, *FEW, cwd=tmp_path, blocked=without("torch"))
    assert done.returncode == 3
    assert "ntre_deploy[export]" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "exakt"), ("'exakt'", "Did you mean 'exact'")),
        (("--protocol", "relased"), ("'relased'", "Did you mean 'released'")),
        (("--dataset", "procedrual"), ("'procedrual'", "Did you mean 'procedural'")),
        (("--dataset", "coco:nope.json"), ("nope.json",)),
        (("--split", "intrleaved"), ("'intrleaved'", "Did you mean 'interleaved'")),
        (("--fold", "7"), ("7", "3")),
        (("--shots", "5000"), ("5000",)),
        (("--count", "0"), ("--count",)),
        (("--seed", "99999999999"), ("99999999999",)),
        (("--threads", "0"), ("--threads",)),
        (("--episodes", "words.txt"), ("words.txt",)),
        (("--out", "words.txt"), ("words.txt",)),
        (("--out", "words.txt/o"), ("words.txt",)),
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_bad_input_is_refused(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    kind: str,
    tiny: SimpleNamespace,
    here: Path,
    refused: Callable[..., str],
) -> None:
    (here / "words.txt").write_text("words\n")
    message = refused("eval", getattr(tiny, kind), *arguments)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "onx"), ("'onx'", "Did you mean 'onnx'")),
        (("--precision", "fp23"), ("fp23", "Did you mean 'fp32'")),
    ],
)
def test_an_engine_that_the_bundle_lacks_is_refused_before_episodes_are_written(
    arguments: tuple[str, ...], words: tuple[str, ...], tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    message = refused("eval", tiny.bundle, *arguments, "--episodes", "new.jsonl")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("arguments", [("--engine", "onnx"), ("--precision", "fp16")])
def test_options_of_engines_are_refused_for_a_checkpoint(
    arguments: tuple[str, str], tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    message = refused("eval", tiny.checkpoint, *arguments)
    assert " ".join(arguments) in message
    assert "ntre export" in message


def test_targets_that_are_no_model_are_refused(here: Path, refused: Callable[..., str]) -> None:
    assert "nope.ntre" in refused("eval", "nope.ntre")
    (here / "words.txt").write_text("words")
    assert "words.txt" in refused("eval", "words.txt")
    (here / "folder").mkdir()
    assert "manifest.json" in refused("eval", "folder")


def test_episodes_of_another_dataset_are_refused(
    tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    from ntre_deploy.data.episodes import sample_episodes, write_episodes
    from ntre_deploy.data.registry import open_dataset

    write_episodes(here / "set.jsonl", sample_episodes(open_dataset("procedural:1"), [0, 1], 1, 2, 0))
    message = refused("eval", tiny.bundle, "--episodes", "set.jsonl")
    assert "procedural:1" in message
    assert "procedural:0" in message


def test_an_episode_whose_support_lacks_the_class_is_refused(
    tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    from ntre_deploy.data.episodes import Episode, EpisodeSet, write_episodes
    from ntre_deploy.data.procedural import render_scene

    # scene 1 has a target of class 1; find a class that is not in it
    absent = next(c for c in range(24) if not (render_scene(1).labels == c + 1).any())
    write_episodes(
        here / "set.jsonl", EpisodeSet("procedural:0", "all", None, 1, 0, (Episode(absent, "thing", "5", ("1",)),))
    )
    message = refused("eval", tiny.checkpoint, "--episodes", "set.jsonl")
    assert "Episode 1: support 1 of procedural:0 holds no pixel of 'thing'" in message


RELEASED = ("--protocol", "released")


def test_the_released_protocol_runs_one_episode_more_and_gives_other_masks(
    call: Callable[..., Done], tiny: SimpleNamespace, here: Path
) -> None:
    found = {}
    runs = {
        "checkpoint": (tiny.checkpoint, *FEW, *RELEASED),
        "bundle": (tiny.bundle, *FEW, *RELEASED),
        "exact": (tiny.checkpoint, "--threads", "1"),
    }
    for name, arguments in runs.items():
        done = call("eval", *arguments, "--episodes", "set.jsonl", "--out", name)
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads((here / name / "eval.json").read_text())
        assert (report["protocol"], report["episodes"]["count"]) == ("exact" if name == "exact" else "released", 7)
        assert f" 7 episodes of procedural:0, fold 2 (interleaved), protocol {report['protocol']}\n" in done.stdout
        found[name] = counts_of(here / name)
    ours, theirs, exact = found.values()
    assert max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)) <= 2
    # the same pixels of the same queries are compared, but with other masks
    assert [sum(row) for row in ours] == [sum(row) for row in exact]
    assert ours != exact
    # the maps on the way are shown under this protocol too
    with Image.open(here / "checkpoint" / "sheet.png") as image:
        assert image.size == (7 * 248 + 8, 28 + 7 * 188 + 8)


def test_the_released_episodes_begin_with_the_exact_ones(
    call: Callable[..., Done], tiny: SimpleNamespace, here: Path
) -> None:
    for name, options in (("exact", ()), ("released", RELEASED)):
        assert call("eval", tiny.bundle, *FEW, *options, "--episodes", f"{name}.jsonl", "--json").returncode == 0
    exact, released = (read_episodes(here / f"{name}.jsonl").episodes for name in ("exact", "released"))
    assert (len(exact), released[:-1]) == (6, exact)


def test_a_count_that_an_episode_file_does_not_have_is_refused_in_the_users_numbers(
    call: Callable[..., Done], tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    assert call("eval", tiny.bundle, *FEW, "--episodes", "set.jsonl", "--json").returncode == 0
    message = refused("eval", tiny.bundle, *FEW, *RELEASED, "--episodes", "set.jsonl")
    assert "--count 6 is 7 episodes under the released protocol, but set.jsonl has 6" in message
    done = call("eval", tiny.bundle, *RELEASED, "--episodes", "set.jsonl", "--json")
    assert json.loads(done.stdout)["episodes"]["count"] == 6


def test_a_photo_too_narrow_for_the_released_protocol_is_refused(
    call: Callable[..., Done], tiny: SimpleNamespace, here: Path, refused: Callable[..., str]
) -> None:
    for part, pixels in (("images", np.full((8, 600, 3), 90, np.uint8)), ("masks", np.ones((8, 600), np.uint8))):
        folder = here / "data" / "strip" / part
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.fromarray(pixels).save(folder / name)
    arguments = ("eval", tiny.checkpoint, "--dataset", "folder:data", "--count", "1")
    message = refused(*arguments, *RELEASED)
    assert "600 x 8 pixels" in message
    assert "--protocol exact" in message
    assert call(*arguments, "--protocol", "exact", "--json").returncode == 0


def test_a_bundle_is_evaluated_as_released_without_torch(
    ntre: Callable[..., Done], without: Callable[..., Path], tiny: SimpleNamespace, tmp_path: Path
) -> None:
    options = (*FEW, *RELEASED, "--json")
    done = ntre("eval", tiny.bundle, *options, cwd=tmp_path, blocked=without("torch", "onnx", "onnxscript"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["protocol"] == "released"


def test_by_default_the_released_protocol_draws_1001_episodes() -> None:
    from ntre_deploy.cli.episodes import Draw
    from ntre_deploy.cli.evaluate import _released_episodes

    _, drawn = _released_episodes(Draw("procedural", default_count=1000))
    assert len(drawn.episodes) == 1001


def test_a_full_disk_leaves_no_half_report(
    call: Callable[..., Done], tiny: SimpleNamespace, here: Path, full_disk: Callable[[int], Any]
) -> None:
    with full_disk(50):
        done = call("eval", tiny.bundle, *FEW, "--out", "o")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: Cannot write ")
    assert [p for p in here.rglob("*") if not p.is_dir()] == []

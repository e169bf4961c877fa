"""`--ways` of `ntre eval` and `ntre bench`: both of a model's forms, an episode file, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ntre_deploy.data.ways import read_ways

Done = Any
FEW = ("--ways", "3", "--count", "4", "--threads", "1")
QUICK = ("--threads", "1", "--seconds", "0", "--workers", "1", "--no-memory")


def test_checkpoint_and_bundle_run_the_same_episodes(
    tiny: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    found = {}
    for name, more in (("checkpoint", ()), ("bundle", ()), ("plain", ("--no-calibrate",))):
        target = tiny.checkpoint if name == "checkpoint" else tiny.bundle
        done = call("eval", target, *FEW, *more, "--episodes", "set.jsonl", "--out", name)
        assert (done.returncode, done.stderr) == (0, "")
        found[name] = json.loads((here / name / "eval.json").read_text())
        assert ": 3-way 1-shot, 4 episodes of procedural:0" in done.stdout
        for words in ("confusion: rows are the truth", "one-way on the same queries", "vanished: "):
            assert words in done.stdout
        assert {p.name for p in (here / name).iterdir()} == {"eval.json", "episodes.csv", "sheet.png"}
    drawn = read_ways(here / "set.jsonl")
    assert (drawn.ways, len(drawn.episodes)) == (3, 4)
    assert {report["episodes"]["sha256"] for report in found.values()} == {drawn.hash}
    ours, theirs, plain = (report["ways"] for report in found.values())
    assert len(ours["confusion"]) == len(ours["confusion"][0]) == 4
    pixels = sum(map(sum, ours["confusion"]))
    assert (
        sum(
            abs(a - b)
            for x, y in zip(ours["confusion"], theirs["confusion"], strict=True)
            for a, b in zip(x, y, strict=True)
        )
        < 0.01 * pixels
    )
    assert (theirs["calibrated"], plain["calibrated"]) == (True, False)
    # what each class gives alone has nothing to do with calibration
    assert theirs["one_way"] == plain["one_way"]
    assert theirs["confusion"] != plain["confusion"]


def test_one_way_is_what_it_is_without_the_option(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    runs = [
        json.loads(call("eval", tiny.bundle, "--count", "2", *more, "--json").stdout) for more in ((), ("--ways", "1"))
    ]
    assert runs[0]["results"] == runs[1]["results"]
    assert "ways" not in runs[1]


def test_the_bench_measures_several_classes(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from ntre_deploy.bench.report import schema_text

    done = call(
        "bench",
        tiny.bundle,
        "--ways",
        "2",
        "--shots",
        "2",
        "--count",
        "2",
        *QUICK,
        "--engine",
        "onnx-cpu:fp32",
        "--out",
        "r",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2-way 2-shot, 2 episodes" in done.stdout
    assert "several classes at once" in done.stdout
    report = json.loads((here / "r" / "bench.json").read_text())
    jsonschema.validate(report, json.loads(schema_text()))
    full, _, engine = report["systems"]
    assert engine["parity"]["differing_pixels"] < 0.01
    assert engine["accuracy"]["ways"]["ways"] == report["episodes"]["ways"] == 2
    assert len(engine["accuracy"]["ways"]["confusion"]) == 3
    assert engine["accuracy"]["ways"]["one_way_miou"] == pytest.approx(
        full["accuracy"]["ways"]["one_way_miou"], abs=0.02
    )
    assert engine["throughput"][0]["median"] > 0
    page, text = ((here / "r" / name).read_text() for name in ("report.html", "report.md"))
    assert 'id="ways"' in page
    assert 'id="confusion-2"' in page
    assert "Confusion of onnx-cpu fp32" in text


@pytest.mark.parametrize("command", ["eval", "bench"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ways", "0"), ("--ways '0'",)),
        (("--ways", "-3"), ("--ways '-3'",)),
        (("--ways", "two"), ("--ways 'two'",)),
        (("--ways", "25"), ("--ways 25", "24 classes with enough images")),
        (("--ways", "7", "--fold", "0"), ("--ways 7", "6 classes with enough images")),
        (("--ways", "300"), ("--ways 300", "1 to 254")),
        (("--no-calibrate",), ("--no-calibrate", "add --ways N")),
        (("--ways", "3", "--episodes", "one.jsonl"), ("one.jsonl holds one-way episodes",)),
        (("--episodes", "two.jsonl"), ("two.jsonl holds 2-way episodes", "--ways 2")),
        (("--ways", "3", "--episodes", "two.jsonl"), ("--ways 3", "have ways 2")),
    ],
)
def test_ways_that_cannot_be_are_refused(
    command: str,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tiny: SimpleNamespace,
    here: Path,
    refused: Callable[..., str],
) -> None:
    from ntre_deploy.data.episodes import sample_episodes, write_episodes
    from ntre_deploy.data.registry import open_dataset
    from ntre_deploy.data.ways import sample_ways, write_ways

    data = open_dataset("procedural:0")
    write_episodes(here / "one.jsonl", sample_episodes(data, [0, 1], 1, 2, 0))
    write_ways(here / "two.jsonl", sample_ways(data, [0, 1, 2], 2, 1, 2, 0))
    message = refused(command, tiny.bundle, *arguments)
    assert all(word in message for word in words), message


def test_the_released_protocol_knows_one_class_at_a_time(tiny: SimpleNamespace, refused: Callable[..., str]) -> None:
    assert "--ways 2 is for --protocol exact" in refused("eval", tiny.bundle, "--ways", "2", "--protocol", "released")

"""`ntre bench` as a user and a deployment pipeline run it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from ntre_deploy.bench.report import schema_text
from tests.forging import list_anew

jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema (extra [dev])")

Done = subprocess.CompletedProcess[str]
# nothing but one timing of each query
QUICK = ("--threads", "1", "--seconds", "0", "--workers", "0", "--no-memory")


@pytest.fixture(scope="module")
def benched(
    tiny: SimpleNamespace, ntre: Callable[..., Done], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--count", "3", "--threads", "1", "--seconds", "0.1", "--workers", "2"]
    arguments += ["--out", "report", "--pictures", "2", "--episodes", "set.jsonl"]
    done = ntre("bench", tiny.bundle, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, done=done, report=json.loads((folder / "report" / "bench.json").read_text()))


def test_it_prints_its_tables_and_nothing_on_stderr(benched: SimpleNamespace) -> None:
    out = benched.done.stdout
    assert benched.done.stderr == ""
    for row in ("pytorch full", "pytorch cached", "onnx-cpu"):
        latency, costs = [line for line in out.splitlines() if line.strip().startswith(f"{row} fp32")]
        assert "…" not in latency + costs
    lines = out.splitlines()
    assert "each system ran for at least 0.1 s; for steadier percentiles: --seconds 1" in lines
    written = ["report: report/report.html", "JSON: report/bench.json", "Markdown: report/report.md"]
    assert lines[-4:] == [*written, "sheet: report/sheet.png"]


def test_it_finds_the_export_equal_to_pytorch(benched: SimpleNamespace) -> None:
    systems = {(s["name"], s["precision"]): s for s in benched.report["systems"]}
    assert [*systems][:3] == [("pytorch full", "fp32"), ("pytorch cached", "fp32"), ("onnx-cpu", "fp32")]
    reference = systems["pytorch full", "fp32"]
    assert reference["parity"]["differing_pixels"] == reference["parity"]["logits_error"] == 0.0
    assert reference["parity"]["mask_iou"] == reference["speedup"] == 1.0
    for system in systems.values():
        assert system["parity"]["finite"] is True
        assert system["parity"]["logits_error"] < 1e-3
        assert system["parity"]["differing_pixels"] < 1e-3
        assert system["accuracy"]["miou"] == pytest.approx(reference["accuracy"]["miou"], abs=1e-3)
        assert system["latency_ms"]["total"]["n"] == len(system["samples_ms"]) >= 30


def test_the_report_follows_the_schema_that_the_command_prints(
    benched: SimpleNamespace, call: Callable[..., Done]
) -> None:
    done = call("bench", "--schema")
    assert (done.returncode, done.stderr) == (0, "")
    jsonschema.validate(benched.report, json.loads(done.stdout), jsonschema.Draft202012Validator)


def test_everything_beside_the_queries_is_measured(benched: SimpleNamespace, tiny: SimpleNamespace) -> None:
    report = benched.report
    for system in report["systems"]:
        assert system["footprint_missing"] is None
        assert system["footprint"]["load_ms"] > 0
        assert system["support_ms"]["n"] == 2
    full, cached, engine = report["systems"][:3]
    assert full["throughput"] is None
    for system in (cached, engine):
        assert [rate["workers"] for rate in system["throughput"]] == [1, 2]
        assert all(rate["median"] > 0 for rate in system["throughput"])
    sizes = {path.name: path.stat().st_size for path in tiny.bundle.glob("*.onnx")}
    assert engine["files"] == sizes
    assert engine["precision_asked"] == engine["precision"] == "fp32"
    assert "query.onnx" in engine["precision_evidence"]
    assert report["conditions"]["seconds"] > 0
    assert 0 < report["protocol"]["harness_overhead_ms"] < 0.2


def test_it_writes_report_page_sheet_and_the_episodes_that_it_ran(benched: SimpleNamespace) -> None:
    folder = benched.folder / "report"
    names = ["bench.json", "report.html", "report.md", "sheet.png"]
    assert sorted(p.name for p in folder.iterdir()) == names
    with Image.open(folder / "sheet.png") as image:
        image.load()
    text = (folder / "report.html").read_text()
    assert len(text.encode()) < 3_000_000
    assert text.count('class="episode"') == 2
    header = json.loads((benched.folder / "set.jsonl").read_text().splitlines()[0])
    assert header["sha256"] == benched.report["episodes"]["sha256"]
    assert header["count"] == benched.report["episodes"]["count"] == 3


def test_it_runs_the_same_episodes_again_from_their_file_and_gives_pure_json(
    benched: SimpleNamespace, tiny: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    done = call("bench", tiny.bundle, "--episodes", benched.folder / "set.jsonl", "--json", "--rounds", "2", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["episodes"] == benched.report["episodes"]
    scores = [[s["accuracy"] for s in r["systems"]] for r in (report, benched.report)]
    assert scores[0] == scores[1]
    for system in report["systems"]:
        assert system["latency_ms"]["total"]["n"] == 3 * 2
        assert system["footprint"] is system["throughput"] is None
    assert any("p99 needs 30" in warning for warning in report["warnings"])
    assert list(here.iterdir()) == []


def test_several_bundles_are_measured_in_one_run(tiny: SimpleNamespace, call: Callable[..., Done], here: Path) -> None:
    for name in ("one", "two"):
        bundle = Path(shutil.copytree(tiny.bundle, here / f"{name}.ntre"))
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps(manifest | {"name": name}))
    arguments = ("--checkpoint", tiny.checkpoint, "--engine", "onnx-cpu", "--count", "2", "--json")
    done = call("bench", "one.ntre", "two.ntre", *arguments, *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert [bundle["name"] for bundle in report["bundles"]] == ["one", "two"]
    labels = ["one: pytorch full fp32", "one: pytorch cached fp32", "one: onnx-cpu fp32", "two: onnx-cpu fp32"]
    assert [system["label"] for system in report["systems"]] == labels
    assert [system["bundle"] for system in report["systems"]] == ["one", "one", "one", "two"]


@pytest.fixture
def gated(benched: SimpleNamespace, tiny: SimpleNamespace, call: Callable[..., Done]) -> Callable[..., Done]:
    """Run the episodes of `benched` with gates."""

    def run(*gates: str | Path, engine: str = "onnx-cpu:fp32") -> Done:
        chosen = ("--episodes", benched.folder / "set.jsonl", "--engine", engine, *QUICK)
        return call("bench", tiny.bundle, *chosen, *gates)

    return run


def test_gates_that_pass_end_with_0_and_are_told(gated: Callable[..., Done], benched: SimpleNamespace) -> None:
    done = gated(
        *("--max-miou-drop", "0.1", "--min-pixel-agreement", "99.9", "--max-p50", "100000", "--max-p99", "100000"),
        *("--min-speedup", "0.001", "--against", benched.folder / "report" / "bench.json", "--max-slowdown", "100000"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len([line for line in done.stdout.splitlines() if line.startswith("passed: onnx-cpu fp32: ")]) == 7


def test_a_failed_gate_ends_with_1_names_the_figure_and_leaves_the_report(
    gated: Callable[..., Done], here: Path
) -> None:
    done = gated("--max-p99", "0.001", "--max-miou-drop", "0.5", "--out", "report", "--json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 1 of 2 gates failed: onnx-cpu fp32: p99 ")
    assert line.endswith(" ms, at most 0.00 ms (--max-p99).")
    told = json.loads(done.stdout)["gates"]
    assert [(gate["gate"], gate["passed"]) for gate in told] == [("max_miou_drop", True), ("max_p99", False)]
    assert json.loads((here / "report" / "bench.json").read_text())["gates"] == told
    assert "1 of 2 gates failed" in (here / "report" / "report.html").read_text()


def test_an_export_of_other_weights_fails_the_gates_of_parity(
    bundle: Path, tiny: SimpleNamespace, benched: SimpleNamespace, call: Callable[..., Done]
) -> None:
    graph = onnx.load(str(bundle / "query.onnx"))
    for weights in graph.graph.initializer:
        if len(weights.dims) == 4:
            weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    onnx.save(graph, str(bundle / "query.onnx"))
    list_anew(bundle, "query.onnx")
    chosen = ("--checkpoint", tiny.checkpoint, "--episodes", benched.folder / "set.jsonl", *QUICK)
    done = call("bench", bundle, *chosen, "--min-pixel-agreement", "99.9")
    assert done.returncode == 1
    assert "(--min-pixel-agreement)" in done.stderr


def test_a_baseline_of_other_episodes_is_refused_before_anything_runs(
    tiny: SimpleNamespace, benched: SimpleNamespace, refused: Callable[..., str]
) -> None:
    baseline = benched.folder / "report" / "bench.json"
    assert "--episodes FILE" in refused("bench", tiny.bundle, "--count", "2", "--against", baseline)
    assert "nope.json" in refused("bench", tiny.bundle, "--against", "nope.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--min-pixel-agreement", "0.99"), ("percentage", "99.9")),
        (("--max-p99", "0"), ("--max-p99", "above 0")),
        (("--max-slowdown", "5"), ("--against",)),
        (("--engine", "onx-cpu"), ("'onx-cpu' is unknown", "Did you mean 'onnx-cpu'?")),
        (("--engine", "onnx-cpu:int4", "--count", "1"), ("int4", "fp32")),
        (("--seconds", "-1"), ("--seconds", "-1")),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], tiny: SimpleNamespace, refused: Callable[..., str]
) -> None:
    message = refused("bench", tiny.bundle, *arguments)
    assert all(word in message for word in words), message


def test_gates_without_an_engine_to_judge_are_no_success(
    tiny: SimpleNamespace, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ntre_deploy.bench.systems.available_engines", lambda: {"onnx-cpu": "it is not installed"})
    message = refused("bench", tiny.bundle, "--count", "1", "--max-p50", "5", code=3)
    assert "onnx-cpu: it is not installed" in message


def test_classes_without_enough_images_are_told(
    tiny: SimpleNamespace, call: Callable[..., Done], here: Path, pictures: SimpleNamespace
) -> None:
    for name, count in (("thing", 2), ("rare", 1)):
        for number, (image, mask) in enumerate(pictures.supports[:count]):
            for kind, path in (("images", image), ("masks", mask)):
                (here / "set" / name / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, here / "set" / name / kind / f"{number}.png")
    done = call("bench", tiny.bundle, "--dataset", "folder:set", "--count", "2", *QUICK, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (warning,) = [w for w in json.loads(done.stdout)["warnings"] if "left out" in w]
    assert "'rare'" in warning


def test_the_workflow_in_the_examples_runs_gates_that_exist(
    tiny: SimpleNamespace, benched: SimpleNamespace, call: Callable[..., Done], here: Path
) -> None:
    workflow = Path(__file__).parents[2] / "examples" / "github_actions" / "bench.yml"
    text = workflow.read_text()
    command = text.partition("run: >-\n")[2].partition("\n\n")[0].split()
    values: dict[str, Any] = {
        "model.ntre": tiny.bundle,
        "model.safetensors": tiny.checkpoint,
        "ci/episodes.jsonl": benched.folder / "set.jsonl",
        "ci/bench.json": benched.folder / "report" / "bench.json",
        "folder:ci/photos": "procedural",
    }
    assert set(values) <= set(command)
    given = [values.get(word, word) for word in command[1:]]
    # the tiny network has no speed to lose, and a shared machine has
    done = call(*given, *QUICK, "--min-speedup", "0.001", "--max-slowdown", "1000000")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert (here / "report" / "report.md").is_file()
    assert "report/report.md" in text


# --- without PyTorch, as on a device


def test_a_device_without_pytorch_is_measured_by_its_engines(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    done = ntre(
        *("bench", tiny.bundle, "--count", "2", "--seconds", "0", "--workers", "1", "--threads", "1"),
        *("--out", "report", "--max-miou-drop", "90"),
        cwd=here,
        blocked=without("torch"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((here / "report" / "bench.json").read_text())
    assert [(s["name"], s["precision"], s["kind"]) for s in report["systems"]] == [("onnx-cpu", "fp32", "engine")]
    assert {(s["speedup"], s["speedup_against"], s["reference"]) for s in report["systems"]} == {(None, None, 0)}
    assert report["systems"][0]["footprint"]["load_ms"] > 0
    told = "PyTorch is not installed: what differs is told against onnx-cpu fp32, and there are no speed-ups"
    assert told in report["warnings"]
    assert told in (here / "report" / "report.html").read_text()


def test_a_bare_device_is_compared_with_what_the_export_stored(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    done = ntre(
        *("bench", tiny.bundle, "--seconds", "0", "--workers", "1", "--threads", "1", "--out", "report"),
        *("--max-miou-drop", "0.5", "--min-pixel-agreement", "99.5"),
        cwd=here,
        blocked=without("torch", "psutil", "jinja2"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (here / "report").iterdir()) == ["bench.json", "report.md", "sheet.png"]
    report = json.loads((here / "report" / "bench.json").read_text())
    jsonschema.validate(report, json.loads(schema_text()), jsonschema.Draft202012Validator)
    assert report["episodes"]["dataset"] == "reference:procedural:2022"
    assert report["episodes"]["count"] == 8
    (engine,) = report["systems"]
    assert (engine["name"], engine["speedup"]) == ("onnx-cpu", None)
    # of the network itself, and not of the engine with itself
    assert engine["parity"]["against"] == "pytorch stored fp32"
    assert 0 < engine["parity"]["logits_error"] < 1e-3
    assert engine["parity"]["pixel_agreement"] > 0.999
    (stored,) = report["stored"]
    assert stored["miou"] - engine["accuracy"]["miou"] == pytest.approx(engine["parity"]["miou_drop"])
    assert f"compared with pytorch stored fp32 in tiny: mIoU {100 * stored['miou']:.2f}" in done.stdout.splitlines()
    told = "\n".join(report["warnings"])
    for words in (
        "psutil is not installed: it would add clock, memory, and what other processes did to the figures",
        "jinja2 is not installed: it would add report.html",
        "PyTorch is not installed: what differs is told against what the export stored of PyTorch",
    ):
        assert words in told
        assert words in done.stdout
    assert report["conditions"] is None
    assert "pip install 'ntre_deploy[bench]'" in told


def test_a_broken_engine_is_found_on_the_device(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    bundle = Path(shutil.copytree(tiny.bundle, here / "broken.ntre"))
    path = bundle / "query.onnx"
    graph = onnx.load(path)
    last = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * 3, last.name))
    onnx.save(graph, str(path))
    list_anew(bundle, path.name)
    arguments = ("bench", "broken.ntre", *QUICK, "--min-pixel-agreement", "99.9")
    done = ntre(*arguments, cwd=here, blocked=without("torch"))
    assert done.returncode == 1
    assert "gates failed: onnx-cpu fp32: equal pixels" in done.stderr


def test_the_reference_set_runs_beside_pytorch_where_it_is_asked_for(
    tiny: SimpleNamespace, call: Callable[..., Done], refused: Callable[..., str]
) -> None:
    done = call("bench", tiny.bundle, "--dataset", "reference", "--json", "--engine", "onnx-cpu", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["episodes"]["dataset"] == "reference:procedural:2022"
    assert [s["parity"]["against"] for s in report["systems"]] == ["pytorch full fp32"] * 3
    assert report["stored"] == []
    message = refused("bench", tiny.bundle, "--dataset", "reference", "--shots", "5")
    assert "leave out the options that draw" in message


def test_a_bundle_without_a_set_names_what_it_would_add(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], here: Path
) -> None:
    bundle = Path(shutil.copytree(tiny.bundle, here / "bare.ntre"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["role"] != "reference"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "reference.safetensors").unlink()
    blocked = without("torch")
    done = ntre("bench", "bare.ntre", *QUICK, cwd=here, blocked=blocked)
    assert done.returncode == 0, done.stderr
    assert "bare.ntre holds no reference set, as `ntre export` stores one by --reference: it would add parity" in (
        done.stdout
    )
    assert "episodes of procedural:0" in " ".join(done.stdout.split())
    done = ntre("bench", "bare.ntre", "--dataset", "reference", *QUICK, cwd=here, blocked=blocked)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--dataset reference cannot be used: bare.ntre holds no reference set" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--checkpoint", "demo"], "--checkpoint demo is for PyTorch, which is not installed here; leave it out."),
        (["--engine", "onnx-cpu:int8"], "int8"),
    ],
)
def test_what_a_device_without_pytorch_cannot_do_is_one_line(
    arguments: list[str],
    told: str,
    tiny: SimpleNamespace,
    ntre: Callable[..., Done],
    without: Callable[..., Path],
    here: Path,
) -> None:
    done = ntre("bench", tiny.bundle, "--count", "1", *arguments, cwd=here, blocked=without("torch"))
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr.splitlines()[-1]

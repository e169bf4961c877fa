"""The web runtime runs the same conformance kit as Python, with the same report, and a wrong one is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntre_deploy.conformance.kit import Kit
from ntre_deploy.conformance.running import run_kit

Run = Callable[..., Any]

# `given` is a pattern of names: all others are left out
_RUN = """
  const { runKit } = await import("/src/conformance.js");
  const { Kit } = await import("/src/kit.js");
  const open = Kit.open;
  Kit.open = async (url) => {
    const kit = await open(url);
    kit.content.cases = kit.content.cases.filter(({ name }) => new RegExp(`^(${given})$`).test(name));
    return kit;
  };
  let result = null;
  const told = [];
  const failed = await outcome(async () => {
    const options = { ort, engine: "wasm", version: "1.2.3", onCase: (name) => told.push(name) };
    result = await runKit("/kit", "/tiny/", options);
  });
  return { result, failed, told };
"""


@pytest.mark.slow
def test_the_web_runtime_passes_every_case(run: Run, conformance_kit: Path, exported: Path) -> None:
    found = run(_RUN, ".*", kit=conformance_kit)
    assert found["failed"] == ["nothing", ""]
    result = found["result"]
    kit = Kit.open(conformance_kit)
    assert [case["name"] for case in result["cases"] if not case["passed"]] == []
    assert found["told"] == [case["name"] for case in kit.content["cases"]]
    skipped = {case["name"] for case in result["cases"] if case["skipped"]}
    # a page sees no folder
    assert skipped == {case["name"] for case in kit.content["cases"] if "needs" in case}
    assert result["runtime"] == {"name": "web", "version": "1.2.3", "engine": "wasm", "precision": "fp32"}
    python = run_kit(kit, exported, "onnx-cpu", "fp32", threads=1).to_json()
    assert (result["kit"], result["passed"], result.keys()) == (python["kit"], True, python.keys())
    for mine, theirs in zip(result["cases"], python["cases"], strict=True):
        assert mine.keys() == theirs.keys()
        if not mine["skipped"]:
            assert [(s["name"], s["tolerance"]) for s in mine["steps"]] == [
                (s["name"], s["tolerance"]) for s in theirs["steps"]
            ]
            assert (mine["message"] is None) == (theirs["message"] is None)


# a change of a module, which cases are run, and one that must fail with its steps
_WRONG = {
    "letterbox": (
        "letterbox.js",
        ("const AREA_BELOW = 0.5;", "const AREA_BELOW = 0;"),
        "letterbox-(photo|portrait)",
        ("letterbox-photo", ["input", "input-share"]),
    ),
    "mask": (
        "letterbox.js",
        ("columns[x]] === 1 ? 1 : 0", "columns[x]] > 0 ? 1 : 0"),
        "letterbox-portrait",
        ("letterbox-portrait", ["target"]),
    ),
    "labels": (
        "segmenter.js",
        ("const labels = labelMap(logits, box);", "const labels = labelMap(logits, box).reverse();"),
        "segment-3-way-star",
        ("segment-3-way-star", ["labels"]),
    ),
    "calibration": (
        "calibration.js",
        ("if (calibrations.length < 2 ||", "if (true ||"),
        "segment-3-way-.*",
        ("segment-3-way-heart", ["labels", "labels-from-logits"]),
    ),
    "hash": (
        "bundle.js",
        ("if ((await sha256(content)) !== entry.sha256) {", "if (false) {"),
        "bundle-.*-flipped-.*",
        ("bundle-self-test-flipped-last", ["error"]),
    ),
    "external": (
        "engine.js",
        ("checkSelfContained(content, entry.name);", ""),
        "bundle-query-external-.*",
        ("bundle-query-external-sub-graph", ["error"]),
    ),
    "digest": (
        "memory.js",
        ("if ((await sha256(zeroed)) !== digest) {", "if (false) {"),
        "hostile-memory-.*",
        ("hostile-memory-flipped-in-data", ["error"]),
    ),
    "class": (
        "manifest.js",
        ('import { InputError } from "./errors.js";', 'import { EngineError as InputError } from "./errors.js";'),
        "bundle-manifest-schema-.*",
        ("bundle-manifest-schema-1", ["error"]),
    ),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_a_web_runtime_that_differs_is_found(
    wrong: str, run: Run, packages: Path, conformance_kit: Path, tmp_path: Path
) -> None:
    name, (old, new), pattern, (case, steps) = _WRONG[wrong]
    src = shutil.copytree(packages / "src", tmp_path / "src")
    text = (src / name).read_text()
    assert old in text
    (src / name).write_text(text.replace(old, new))
    result = run(_RUN, pattern, kit=conformance_kit, src=src)["result"]
    assert not result["passed"]
    found = {c["name"]: [s["name"] for s in c["steps"] if not s["passed"]] for c in result["cases"] if not c["passed"]}
    assert found[case] == steps


def test_a_kit_that_is_damaged_or_of_another_bundle_is_an_error(
    run: Run, conformance_kit: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(conformance_kit, tmp_path / "kit"))
    content = json.loads((copy / "kit.json").read_text())
    case = next(c for c in content["cases"] if c["name"] == "hostile-memory-no-json")
    (copy / case["memory"]).write_bytes(b"x")
    kind, text = run(_RUN, case["name"], kit=copy)["failed"]
    assert (kind, case["memory"] in text, "has been changed" in text) == ("KitError", True, True)
    (copy / "kit.json").write_text(json.dumps(content | {"version": 2}))
    assert "is of version 2" in run(_RUN, "none", kit=copy)["failed"][1]
    content["bundle"]["manifest_sha256"] = "0" * 64
    (copy / "kit.json").write_text(json.dumps(content))
    assert "is another one or was changed" in run(_RUN, "none", kit=copy)["failed"][1]

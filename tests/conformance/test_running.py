"""Python's runtime conforms to its own kit, and a kit finds a runtime that does not."""

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.conformance import running
from ntre_deploy.conformance.kit import Kit
from ntre_deploy.conformance.result import CaseResult, KitResult
from ntre_deploy.conformance.running import run_kit
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime import bundle as bundles
from ntre_deploy.runtime import encoding, letterbox, manifest, segmenter, stacked, support
from ntre_deploy.runtime.engines import onnx

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def kit(conformance_kit: Path) -> Kit:
    return Kit.open(conformance_kit)


def some(kit: Kit, pattern: str) -> Kit:
    """The kit with the cases whose names match alone."""
    cases = [case for case in kit.content["cases"] if re.fullmatch(pattern, case["name"])]
    assert cases
    return dataclasses.replace(kit, content=kit.content | {"cases": cases})


def failed(kit: Kit, bundle: Path, pattern: str) -> dict[str, set[str]]:
    """Names of the cases that fail, with their steps that do."""
    result = run_kit(some(kit, pattern), bundle, "onnx-cpu", "fp32", threads=1)
    assert result.passed == all(case.passed for case in result.cases)
    return {c.name: {step.name for step in c.steps if not step.passed} for c in result.cases if not c.passed}


@pytest.fixture(scope="module")
def whole(kit: Kit, exported: Path) -> KitResult:
    return run_kit(kit, exported, "onnx-cpu", "fp32", threads=1)


def test_python_passes_every_case_and_skips_none(whole: KitResult, kit: Kit) -> None:
    assert [case.name for case in whole.cases if not case.passed] == []
    assert [case.name for case in whole.cases if case.skipped] == []
    assert [case.name for case in whole.cases] == [case["name"] for case in kit.content["cases"]]
    assert whole.passed
    assert whole.runtime["engine"] == "onnx-cpu"


def test_every_kind_class_and_need_is_there(kit: Kit) -> None:
    cases = kit.content["cases"]
    assert {case["kind"] for case in cases} == {"letterbox", "encode", "stack", "segment", "memory", "bundle"}
    assert {case["error"]["class"] for case in cases if "error" in case} == {"input", "engine"}
    assert {need for case in cases for need in case.get("needs", ())} == {"folder", "link", "signature"}
    sizes = {(entry["width"], entry["height"]) for entry in kit.content["images"].values()}
    assert {(1, 1), (4000, 3000), (32_767, 1)} <= sizes


def test_label_maps_of_the_kit_have_something_to_get_wrong(kit: Kit) -> None:
    shown = [np.unique(kit.labels(c["labels"])) for c in kit.content["cases"] if "labels" in c]
    assert sum(len(values) > 1 for values in shown) > len(shown) / 2
    assert max(values.max() for values in shown) >= 3


def test_another_precision_passes_by_its_own_tolerances(kit: Kit, exported: Path) -> None:
    result = run_kit(some(kit, "segment-.*|encode-star|bundle-whole"), exported, "onnx-cpu", "fp16", threads=1)
    assert [(case.name, case.steps) for case in result.cases if not case.passed] == []
    assert result.runtime["precision"] == "fp16"
    assert any(step.measured for case in result.cases for step in case.steps if step.name == "logits")


def _interpolated(patch: Patch) -> None:
    patch.setattr(letterbox, "_AREA_BELOW", 0.0)


def _one_level_brighter(patch: Patch) -> None:
    def brighter(image: Any, spec: Any) -> Any:
        found, box = letterbox.prepare_image(image, spec)
        return found + np.float32(1.0 / spec.std[0]), box

    patch.setattr(running, "prepare_image", brighter)


def _centred(patch: Patch) -> None:
    def centred(image: Any, spec: Any) -> Any:
        found, box = letterbox.prepare_image(image, spec)
        return np.roll(found, (box.size - box.inner_height) // 2, axis=1), box

    patch.setattr(running, "prepare_image", centred)


def _rounded_down(patch: Patch) -> None:
    fit = letterbox.Letterbox.fit

    def down(height: int, width: int, size: int) -> letterbox.Letterbox:
        longer = max(height, width)
        found = fit(height, width, size)
        return dataclasses.replace(found, inner_height=max(1, height * size // longer))

    patch.setattr(running.Letterbox, "fit", staticmethod(down))


def _rounded_half_up(patch: Patch) -> None:
    def up(height: int, width: int, size: int) -> letterbox.Letterbox:
        longer = max(height, width)
        inner = [max(1, (2 * side * size + longer) // (2 * longer)) for side in (height, width)]
        return letterbox.Letterbox(size, height, width, *inner)

    patch.setattr(running.Letterbox, "fit", staticmethod(up))


def _ignored_counts(patch: Patch) -> None:
    def all_of_it(mask: Any, spec: Any) -> Any:
        return letterbox.prepare_mask((mask > 0).astype(np.uint8), spec)

    patch.setattr(running, "prepare_mask", all_of_it)
    patch.setattr(encoding, "prepare_mask", all_of_it)


def _flipped(patch: Patch) -> None:
    original = running.label_map
    for module in (running, segmenter):
        patch.setattr(module, "label_map", lambda logits, box: original(logits, box)[:, ::-1])


def _first_class_wins(patch: Patch) -> None:
    original = running.label_map
    patch.setattr(running, "label_map", lambda logits, box: np.minimum(original(logits, box), 1))


def _not_calibrated(patch: Patch) -> None:
    for module in (running, segmenter):
        patch.setattr(module, "calibrated", lambda logits, found: logits)


def _always_calibrated(patch: Patch) -> None:
    def own(memory: Any) -> Any:
        return [m.calibration or support.NEUTRAL for m in ([memory] if hasattr(memory, "name") else memory)]

    patch.setattr(running, "calibrations", own)


def _summed(patch: Patch) -> None:
    def added(name: str, shots: Any, model: str) -> Any:
        found = encoding.join(name, shots, model)
        return dataclasses.replace(found, prototype=found.prototype * np.float32(len(shots)))

    patch.setattr(segmenter, "join", added)


def _unpadded(patch: Patch) -> None:
    patch.setattr(stacked, "padded", lambda chunks: chunks)


def _keys_in_the_order_of_texts(patch: Patch) -> None:
    load = support.SupportMemory.load

    def sorted_keys(path: Any) -> Any:
        found = load(path)
        order = sorted(range(len(found.keys)), key=str)
        return dataclasses.replace(found, keys=tuple(found.keys[n] for n in order))

    patch.setattr(running.SupportMemory, "load", staticmethod(sorted_keys))


def _silent(patch: Patch) -> None:
    patch.setattr(support.warnings, "warn", lambda *a, **k: None)


def _nan(patch: Patch) -> None:
    original = running.Segmenter.logits

    def nan(self: Any, *a: Any, **k: Any) -> Any:
        logits, box = original(self, *a, **k)
        logits[..., 0, 0] = np.nan
        return logits, box

    patch.setattr(running.Segmenter, "logits", nan)


# what is wrong, which cases are run, and one that must fail with the steps that do
_WRONG: list[tuple[Callable[[Patch], None], str, str, set[str]]] = [
    (_interpolated, "letterbox-(photo|portrait|one-more)", "letterbox-photo", {"input", "input-share"}),
    (_one_level_brighter, "letterbox-portrait", "letterbox-portrait", {"input-share"}),
    (_centred, "letterbox-landscape", "letterbox-landscape", {"input", "input-share"}),
    (_rounded_down, "letterbox-(one-less|photo|1000-wide)", "letterbox-photo", {"box"}),
    (_rounded_half_up, "letterbox-(half|photo)", "letterbox-half", {"box", "input"}),
    (_ignored_counts, "letterbox-portrait|encode-star", "letterbox-portrait", {"target"}),
    (_ignored_counts, "encode-star", "encode-star", {"prototype", "keys"}),
    (_flipped, "segment-.*", "segment-3-way-star", {"labels", "labels-from-logits"}),
    (_first_class_wins, "segment-.*", "segment-3-way-moon", {"labels-from-logits"}),
    (_not_calibrated, "segment-3-way-.*", "segment-3-way-heart", {"labels", "labels-from-logits"}),
    (_always_calibrated, "segment-one-of-calibrated", "segment-one-of-calibrated", {"labels-from-logits"}),
    (_summed, "encode-heart", "encode-heart", {"prototype"}),
    (_unpadded, "stack-.*", "stack-many", {"stack"}),
    (_keys_in_the_order_of_texts, "memory-.*", "memory-twelve-shots", {"arrays", "rewritten"}),
    (_silent, "memory-.*", "memory-version-1", {"warning"}),
    (_nan, "segment-star", "segment-star", {"logits"}),
]


@pytest.mark.parametrize(("change", "pattern", "name", "steps"), _WRONG, ids=lambda v: getattr(v, "__name__", None))
def test_a_runtime_that_differs_is_found(
    change: Callable[[Patch], None],
    pattern: str,
    name: str,
    steps: set[str],
    kit: Kit,
    exported: Path,
    monkeypatch: Patch,
) -> None:
    assert failed(kit, exported, pattern) == {}
    change(monkeypatch)
    found = failed(kit, exported, pattern)
    assert steps <= found[name]


def _unhashed(patch: Patch) -> None:
    patch.setattr(bundles.Bundle, "read", lambda self, entry: (self.folder / entry.name).read_bytes())


def _any_name(patch: Patch) -> None:
    patch.setattr(manifest, "_PLAIN_NAME", re.compile(r"(?s).*"))


def _far_weights(patch: Patch) -> None:
    patch.setattr(onnx, "check_self_contained", lambda content, name: None)


def _untested(patch: Patch) -> None:
    patch.setattr(segmenter.Segmenter, "run_self_test", lambda self, bundle: None)


def _undigested(patch: Patch) -> None:
    patch.setattr(support, "_check_digest", lambda path, file, content: None)


_TOO_KIND: list[tuple[Callable[[Patch], None], str, str]] = [
    (_unhashed, "bundle-.*-flipped-.*", "bundle-self-test-flipped-last"),
    (_any_name, "bundle-name-.*", "bundle-name-0"),
    (_far_weights, "bundle-.*external.*", "bundle-query-external-sub-graph"),
    (_untested, "bundle-self-test-.*", "bundle-self-test-wrong-labels"),
    (_undigested, "hostile-memory-.*", "hostile-memory-flipped-in-data"),
]


@pytest.mark.parametrize(("change", "pattern", "name"), _TOO_KIND, ids=lambda v: getattr(v, "__name__", None))
def test_a_runtime_that_takes_what_is_hostile_is_found(
    change: Callable[[Patch], None], pattern: str, name: str, kit: Kit, exported: Path, monkeypatch: Patch
) -> None:
    change(monkeypatch)
    assert failed(kit, exported, pattern)[name] == {"error"}


@pytest.mark.parametrize(
    "wrong", [EngineError("is no support memory of version 1, 2 or 3"), InputError("another text"), InputError("a\nb")]
)
def test_another_class_text_or_line_of_an_error_is_found(
    wrong: Exception, kit: Kit, exported: Path, monkeypatch: Patch
) -> None:
    def refuse(path: Any) -> Any:
        raise wrong

    monkeypatch.setattr(running.SupportMemory, "load", staticmethod(refuse))
    assert "hostile-memory-version-4" in failed(kit, exported, "hostile-memory-version-4|memory-version-3")
    # an error that nobody expected fails every step of its case
    steps = {"fields", "arrays", "warning", "rewritten"}
    assert failed(kit, exported, "memory-version-3") == {"memory-version-3": steps}


def test_a_defect_is_no_result(kit: Kit, exported: Path, monkeypatch: Patch) -> None:
    def crash(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(running, "prepare_image", crash)
    with pytest.raises(ZeroDivisionError):
        failed(kit, exported, "letterbox-1x1")


def test_a_need_that_is_not_met_is_told_and_passes(kit: Kit, exported: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(running, "_ABLE", {"folder"})
    monkeypatch.setattr(running, "_links", lambda: False)
    cases = some(kit, "bundle-(signature-.*|unlisted-.*|query-a-link)")
    result = run_kit(cases, exported, "onnx-cpu", "fp32", threads=1)
    skipped = {case.name: case.skipped for case in result.cases if case.skipped}
    assert skipped == {
        "bundle-query-a-link": "link",
        "bundle-signature-too-short": "signature",
        "bundle-signature-a-link": "link",
    }
    assert result.passed


def test_the_bundle_is_as_it_was(kit: Kit, exported: Path) -> None:
    def state() -> dict[str, tuple[int, int, bytes]]:
        return {p.name: (p.stat().st_ino, p.stat().st_nlink, p.read_bytes()) for p in exported.iterdir()}

    before = state()
    assert failed(kit, exported, "bundle-(query|support)-.*") == {}
    assert state() == before


def test_the_report_says_nan_and_none_as_null() -> None:
    steps = tuple(running.StepResult("s", measured, 1.0) for measured in (None, float("nan"), float("inf"), 1.0))
    assert [step.to_json()["measured"] for step in steps] == [None, None, None, 1.0]
    assert [step.passed for step in steps] == [False, False, False, True]
    # a case without a single step has shown nothing
    assert not CaseResult("c", "stack", ()).passed


def test_warnings_of_older_memories_stay_inside(kit: Kit, exported: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert failed(kit, exported, "memory-version-.*") == {}

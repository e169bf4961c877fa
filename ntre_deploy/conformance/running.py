"""`run_kit`: a kit on one of Python's engines."""

import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy import __version__
from ntre_deploy.conformance.cases import Case, KitError
from ntre_deploy.conformance.kit import Kit
from ntre_deploy.conformance.measures import Measure, flag, largest, levels, relative, share, worst
from ntre_deploy.conformance.patching import patched
from ntre_deploy.conformance.result import CaseResult, KitResult, StepResult
from ntre_deploy.errors import EngineError, GateError, InputError, NtreError, NtreWarning
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.calibration import Calibration, calibrated
from ntre_deploy.runtime.labels import label_map
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image, prepare_mask
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.stacked import stack_memories
from ntre_deploy.runtime.support import SupportMemory, calibrations

Measures = dict[str, Measure]
# what Python's runtime is able to, see docs/conformance.md; whether links can be made is found out
_ABLE = {"folder", "signature"}
_CLASSES = {"input": InputError, "engine": EngineError, "gate": GateError}


def run_kit(
    kit: Kit,
    bundle: str | Path,
    engine: str = "auto",
    precision: str | None = None,
    *,
    threads: int | None = None,
    tell: Callable[[str], object] = lambda case: None,
) -> KitResult:
    """Run every case of a kit.

    Args:
        bundle: that the kit was made of.
        engine, precision, threads: see `Segmenter.load`.
        tell: hears the name of each case.

    Raises:
        InputError: the kit or the bundle cannot be used, or they do not belong together.
        EngineError: the engine cannot be had.
    """
    kit.check_bundle(Bundle.open(bundle))
    # without the self-test: a runtime that differs is to be told in which step
    segmenter = Segmenter.load(bundle, engine, precision=precision, threads=threads, self_test=False)
    runner = _Runner(kit, Path(bundle), segmenter, threads)
    results = []
    for case in kit.content["cases"]:
        tell(str(case.get("name")))
        results.append(runner.run(case))
    runtime = {
        "name": "python",
        "version": __version__,
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
    }
    return KitResult(str(kit.content["bundle"].get("model")), kit.sha256, runtime, tuple(results))


class _Runner:
    def __init__(self, kit: Kit, bundle: Path, segmenter: Segmenter, threads: int | None) -> None:
        self.kit, self.bundle, self.segmenter, self.threads = kit, bundle, segmenter, threads
        self.kinds: dict[str, Callable[[Case], Measures]] = {
            "letterbox": self._letterbox,
            "encode": self._encode,
            "stack": self._stack,
            "segment": self._segment,
            "memory": self._memory,
            "bundle": self._bundle,
        }

    def run(self, case: Case) -> CaseResult:
        name, kind, steps = case["name"], case["kind"], case["steps"]
        missing = [need for need in case.get("needs", ()) if need not in self._able()]
        if missing:
            return CaseResult(name, kind, (), skipped=missing[0])
        expected, message = case.get("error"), None
        measures: Measures = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NtreWarning)
                measures = self.kinds[kind](case)
            if expected is not None:
                message = "an error was expected"
                measures = {"error": flag(False)}
        except KitError:
            raise
        except NtreError as error:
            message = str(error)
            if expected is not None:
                measures = {"error": flag(_is(error, expected))}
        precision = self.segmenter.engine.precision
        limits = self.kit.content["tolerances"].get(precision, {}) | case.get("tolerances", {})
        unknown = [step for step in steps if step not in limits]
        if unknown:
            raise KitError(f"The kit {self.kit.folder} has no tolerance for {unknown[0]} in {precision}.")
        found = tuple(StepResult(step, measures.get(step), float(limits[step])) for step in steps)
        return CaseResult(name, kind, found, message=message)

    def _able(self) -> set[str]:
        return _ABLE | ({"link"} if _links() else set())

    def _letterbox(self, case: Case) -> Measures:
        image, spec = self.kit.image(case["image"]), self.segmenter.spec
        expected = self.kit.tensors(case["expected"], "input", *(["target"] if "mask" in case else []))
        box = Letterbox.fit(image.shape[0], image.shape[1], spec.size)
        found, _ = prepare_image(image, spec)
        off, differing = levels(found, expected["input"], spec.std)
        inner = np.array([box.inner_height, box.inner_width])
        measures = {"box": largest(inner, np.array(case["box"])), "input": off, "input-share": differing}
        if "mask" in case:
            target = prepare_mask(self.kit.mask(case["mask"]), spec).astype(np.uint8)
            measures["target"] = share(target, expected["target"])
        return measures

    def _encode(self, case: Case) -> Measures:
        classes = {
            one["name"]: [(self.kit.image(shot["image"]), self.kit.mask(shot["mask"])) for shot in one["shots"]]
            for one in case["classes"]
        }
        found = self.segmenter.encode_supports(classes, calibrate=case["calibrate"])
        pairs = list(zip(found, self._loaded(case["memories"]), strict=True))
        return {
            "prototype": worst(relative(a.prototype, b.prototype) for a, b in pairs),
            "keys": worst(_keys_apart(a, b) for a, b in pairs),
            "calibration": worst(_apart(a.calibration, b.calibration) for a, b in pairs),
            "shot-scores": worst(_apart(a.shot_scores, b.shot_scores) for a, b in pairs),
        }

    def _stack(self, case: Case) -> Measures:
        stacked = stack_memories(self._loaded(case["memories"]))._asdict()
        expected = self.kit.tensors(case["expected"], *stacked)
        return {"stack": worst(largest(array, expected[name]) for name, array in stacked.items())}

    def _segment(self, case: Case) -> Measures:
        image, memories = self.kit.image(case["image"]), self._loaded(case["memories"])
        labels = self.segmenter.segment(image, memories)
        if "expected" not in case:
            return {}
        logits, box = self.segmenter.logits(image, memories, calibrate=False)
        expected = self.kit.tensors(case["expected"], "logits")["logits"]
        wanted = self.kit.labels(case["labels"])
        back = label_map(calibrated(expected, calibrations(memories)), box)
        step = int(case["stride"])
        return {
            "logits": relative(logits, expected),
            "labels": share(labels[::step, ::step], wanted),
            "labels-from-logits": share(back[::step, ::step], wanted),
        }

    def _memory(self, case: Case) -> Measures:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", NtreWarning)
            memory = SupportMemory.load(self.kit.file(case["memory"]))
        if "expected" not in case:
            return {}
        expected = self.kit.tensors(case["expected"])
        with tempfile.TemporaryDirectory(prefix="ntre-conformance-") as folder:
            memory.save(Path(folder) / "m")
            again = SupportMemory.load(Path(folder) / "m")
        arrays = _arrays(memory, expected)
        return {
            "fields": flag(_fields(memory) == case["fields"]),
            "arrays": arrays,
            "warning": flag(bool(told) == case["warning"]),
            "rewritten": flag(_fields(again) == case["fields"] and _arrays(again, expected) == 0),
        }

    def _bundle(self, case: Case) -> Measures:
        with patched(self.kit, self.bundle, case["patch"]) as folder:
            # the files that are patched are those of this precision, whatever the other cases run in
            engine = self.segmenter.engine.name
            try:
                Segmenter.load(folder, engine, precision=self.kit.content["precision"], threads=self.threads)
            except NtreError as error:
                # the copy's place is drawn at random, and a report should not be
                raise type(error)(str(error).replace(f"{folder.parent}{os.sep}", "")) from error
        return {"loaded": flag(True)}

    def _loaded(self, paths: list[str]) -> list[SupportMemory]:
        # one object for one path: a list of 256 times the same memory is not read 256 times
        known = {path: SupportMemory.load(self.kit.file(path)) for path in dict.fromkeys(paths)}
        return [known[path] for path in paths]


def _is(error: NtreError, expected: dict[str, Any]) -> bool:
    text = str(error)
    right = isinstance(error, _CLASSES[expected["class"]]) and text.strip() != "" and "\n" not in text
    return right and all(words in text for words in expected["text"])


@cache
def _links() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to(Path(folder) / "file")
        except OSError:
            return False
    return True


def _apart(found: tuple[float, ...] | None, expected: tuple[float, ...] | None) -> Measure:
    if found is None or expected is None:
        return 0.0 if found is expected else None
    return largest(np.array(found, np.float64), np.array(expected, np.float64))


def _keys_apart(found: SupportMemory, expected: SupportMemory) -> Measure:
    if found.shots != expected.shots:
        return None
    return worst(largest(mine, theirs) for mine, theirs in zip(found.keys, expected.keys, strict=True))


def _fields(memory: SupportMemory) -> dict[str, Any]:
    calibration: Calibration | None = memory.calibration
    return {
        "name": memory.name,
        "model": memory.model,
        "shots": memory.shots,
        "calibration": None if calibration is None else calibration._asdict(),
        "shot_scores": None if memory.shot_scores is None else list(memory.shot_scores),
    }


def _arrays(memory: SupportMemory, expected: dict[str, Any]) -> Measure:
    found = {"prototype": memory.prototype} | {f"keys.{n}": keys for n, keys in enumerate(memory.keys)}
    if found.keys() != expected.keys():
        return None
    return worst(largest(found[name], expected[name]) for name in expected)

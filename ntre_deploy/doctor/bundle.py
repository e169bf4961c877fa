"""A bundle against this machine: its files, and its self-test on every engine and in every precision."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.probe import Step
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import (
    ENGINE_NAMES,
    engine_best,
    engine_precisions,
    engine_unavailable,
    precision_unavailable,
)
from ntre_deploy.runtime.engines.tensorrt import ENGINES, rebuild_command
from ntre_deploy.runtime.segmenter import Segmenter

_AGAIN = "ntre export CHECKPOINT --force"


def bundle_steps(folder: str) -> Iterator[Step]:
    """The files of a bundle, then each engine that it was made for."""
    opened: list[Bundle] = []
    yield Step("bundle", "bundle", partial(_files, Path(folder), opened), _AGAIN)
    for bundle in opened:
        for name in ENGINE_NAMES:
            for precision in engine_precisions(bundle, name):
                subject = f"bundle on {name} {precision}"
                yield Step("bundle", subject, partial(_runs, bundle, name, precision, subject), _AGAIN)
            yield Step("bundle", f"bundle for {name}", partial(_lacks, bundle, name))


def _files(folder: Path, opened: list[Bundle]) -> Iterator[Finding]:
    try:
        bundle = Bundle.open(folder)
        for entry in bundle.manifest.files:
            bundle.read(entry)
    except InputError as error:
        yield Finding("bundle", "bundle", "problem", str(error))  # which tells what to do
        return
    opened.append(bundle)
    manifest = bundle.manifest
    count, size = len(manifest.files), sum(entry.size for entry in manifest.files)
    what = f"{manifest.model.config.get('backbone', 'a network')} at {manifest.input.size} pixels"
    text = f"{folder}: {what}, {count} files of {size / 1e6:.1f} MB in all, each with the manifest's SHA-256"
    yield Finding("bundle", "bundle", "ok", text)


def _runs(bundle: Bundle, name: str, precision: str, subject: str) -> Iterator[Finding]:
    reason = engine_unavailable(name)
    if reason is None and name.startswith("onnx"):
        # files that are there for other engines; what a processor lacks is told below
        reason = precision_unavailable(name, precision)
    if reason:
        yield Finding("bundle", subject, "absent", reason)
        return
    try:
        segmenter = Segmenter.load(bundle.folder, name, precision=precision, self_test=False)
    except EngineError as error:
        # an engine that was built for another machine, or a precision that this processor lacks
        yield Finding("bundle", subject, "warning", str(error))
        return
    except InputError as error:
        yield Finding("bundle", subject, "problem", str(error), _AGAIN)
        return
    try:
        segmenter.run_self_test(bundle)
    except (EngineError, InputError) as error:
        yield Finding("bundle", subject, "problem", str(error), _AGAIN)
        return
    yield Finding("bundle", subject, "ok", "self-test passed")


def _lacks(bundle: Bundle, name: str) -> Iterator[Finding]:
    """The precision that this machine would run best, where the bundle was exported without it."""
    best, held = engine_best(name), engine_precisions(bundle, name)
    if engine_unavailable(name) is not None or best is None or best in held:
        return
    text = f"this machine could run it in {best}; the bundle holds {', '.join(held) or 'nothing'} for it"
    if name in ENGINES:
        mend = rebuild_command(str(bundle.folder), name, best)
    else:
        mend = f"{_AGAIN} --engine {name.partition('-')[0]} --precision {best}"
    yield Finding("bundle", f"bundle for {name}", "absent", text, mend)

"""A bundle against this machine: its files, and its self-test on every engine and in every precision."""

from collections.abc import Iterator, Sequence
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
from ntre_deploy.runtime.manifest import manifest_bytes
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.signature import check_signature, holds, read_signature

_AGAIN = "ntre export CHECKPOINT --force"


def bundle_steps(folder: str, *trusted: str) -> Iterator[Step]:
    """The files of a bundle and its signature, then each engine that it was made for.

    With files of trusted keys, a bundle that none of them has signed is a problem, and nothing of it is opened.
    """
    opened: list[Bundle] = []
    yield Step("bundle", "bundle signature", partial(_signature, Path(folder), trusted))
    yield Step("bundle", "bundle", partial(_files, Path(folder), trusted, opened), _AGAIN)
    for bundle in opened:
        for name in ENGINE_NAMES:
            for precision in engine_precisions(bundle, name):
                subject = f"bundle on {name} {precision}"
                yield Step("bundle", subject, partial(_runs, bundle, name, precision, subject), _AGAIN)
            yield Step("bundle", f"bundle for {name}", partial(_lacks, bundle, name))


def _signature(folder: Path, trusted: Sequence[str]) -> Iterator[Finding]:
    try:
        if trusted:
            signer = check_signature(folder, manifest_bytes(folder), trusted)
            yield Finding("bundle", "bundle signature", "ok", f"by the trusted key {signer}")
            return
        found = read_signature(folder)
        if found is None:
            yield Finding("bundle", "bundle signature", "absent", "not signed", f"ntre sign {folder} --key KEY.pem")
            return
        right = holds(found, manifest_bytes(folder))
    except InputError as error:
        yield Finding("bundle", "bundle signature", "problem", str(error))
        return
    if right:
        text = f"by the key {found.fingerprint}; --trusted KEY.pub.pem demands yours"
        yield Finding("bundle", "bundle signature", "ok", text)
    else:
        text = f"names the key {found.fingerprint}, and is not of this manifest: one of them has been changed"
        mend = f"ntre sign {folder} --key KEY.pem, where the change was yours"
        yield Finding("bundle", "bundle signature", "problem", text, mend)


def _files(folder: Path, trusted: Sequence[str], opened: list[Bundle]) -> Iterator[Finding]:
    if trusted and any(finding.status == "problem" for finding in _signature(folder, trusted)):
        yield Finding("bundle", "bundle", "absent", "not opened, as no trusted key has signed it")
        return
    try:
        bundle = Bundle.open(folder, trusted=trusted or None)
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

"""Plans for a bundle that is there already, on the device that will run them."""

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ntre_deploy.errors import GateError, InputError, NtreWarning
from ntre_deploy.files import atomic_folder
from ntre_deploy.plans.files import Request, write_plans
from ntre_deploy.plans.options import TensorRtOptions, targets
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines.onnx import read_graphs
from ntre_deploy.runtime.manifest import MANIFEST, FileEntry
from ntre_deploy.runtime.segmenter import Parity, Segmenter
from ntre_deploy.runtime.signature import Trusted, read_signature


@dataclass(frozen=True)
class Added:
    """What was built.

    Attributes:
        plans: the manifest's entries of the new files.
        parity: with what the export has stored; None where this machine cannot run the plans.
    """

    plans: tuple[FileEntry, ...]
    parity: Parity | None


def add_plans(
    folder: Path,
    engine: str,
    precision: str,
    options: TensorRtOptions,
    progress: Callable[[str], None] = lambda step: None,
    *,
    trusted: Trusted | None = None,
) -> Added:
    """Build plans from a bundle's own ONNX files and add them to it; plans of the same name are replaced.

    The bundle is replaced as a whole at the end: whatever stops this before, it stays as it was.  A signature is of the
    manifest as it was, so it is left out, with an `NtreWarning`.

    Args:
        folder: the bundle.
        engine: `trt` or `trt-rtx`.
        precision: of the ONNX files that are read.
        trusted: demand that one of these keys has signed the bundle, see `Bundle.open`.

    Raises:
        InputError: no bundle or no signature that was demanded, no ONNX files in that precision, or an option that the
            engine does not have.
        EngineError: the library or a GPU is missing, or it cannot build.
        GateError: a plan came out in another precision, or gives other masks than the export stored.
    """
    bundle = Bundle.open(folder, trusted=trusted)
    signed = read_signature(folder)
    if bundle.entry("query", "onnx", precision) is None:
        held = ", ".join(bundle.precisions("onnx")) or "none"
        raise InputError(
            f"{folder} holds ONNX files in {held}, and {precision} was asked for; take one of them, or export "
            f"the checkpoint again with --engine onnx --precision {precision}."
        )
    wanted = targets(engine, precision, options)
    contents = read_graphs(bundle, precision)
    manifest = bundle.manifest
    request = Request(engine, precision, wanted, manifest.input.size, manifest.model)
    with atomic_folder(folder, replace=True) as new:
        plans, opened = write_plans(new, contents, request, options, progress)
        parity = None
        if opened is not None:
            progress(f"comparing {engine} {precision} with what the export stored")
            try:
                parity = Segmenter(opened, manifest.input, manifest.model).self_test_parity(bundle)
            finally:
                opened.close()
            if not parity.passed:
                raise GateError(f"The plans were not added to {folder}: {parity.describe(engine, precision)}.")
            for entry in plans:
                entry.details["self_test"] = {"equal_pixels": parity.pixels, "logits_error": parity.logits}
        # one plan of an engine in a precision, as every reader expects
        kinds = {(entry.role, entry.engine, entry.precision_found) for entry in plans}
        kept = [e for e in manifest.files if (e.role, e.engine, e.precision_found) not in kinds]
        for entry in kept:
            _copy(folder / entry.name, new / entry.name)
        (new / MANIFEST).write_text(replace(manifest, files=(*kept, *plans)).to_json())
        Bundle.open(new)
    if signed is not None:
        warnings.warn(
            f"The signature of {folder} is gone, as its manifest lists the new plans; sign it again with "
            f"`ntre sign {folder} --key KEY.pem`.",
            NtreWarning,
            stacklevel=2,
        )
    return Added(tuple(plans), parity)


def _copy(source: Path, target: Path) -> None:
    # the same bytes under two names where the file system can: bundles are large and devices are small
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

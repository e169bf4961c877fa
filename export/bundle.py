"""`export_bundle`: a checkpoint to a verified bundle on disk, whole or not at all."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import EngineError, GateError, InputError, NtreError
from ntre_deploy.export.graph import QueryGraph, SupportGraph, feature_sizes
from ntre_deploy.export.onnx import (
    DEFAULT_OPSET,
    check_opset,
    found_precision,
    query_signature,
    support_signature,
    write_onnx,
)
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.export.verify import Case, dataset_cases, random_cases, verify
from ntre_deploy.files import atomic_folder, saving_tensors, sha256
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import check_input_size
from ntre_deploy.runtime.bundle import SELF_TEST, Bundle, SelfTest
from ntre_deploy.runtime.engines.onnx import OnnxEngine, cpu_unavailable
from ntre_deploy.runtime.image import InputSpec, label_map, prepare_mask
from ntre_deploy.runtime.manifest import MANIFEST, FileEntry, Manifest, ModelEntry
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.versions import versions

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
_SEED = 2022
# share of the input that the target of the self-test covers at least
_LEAST_TARGET = 0.02

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made.

    Attributes:
        precisions: graphs to write, of `PRECISIONS`.
        input_size: side of the square input, 8k + 1; None takes the checkpoint's.
        opset: of the ONNX files.
        verify_on: dataset of the inputs beside the random ones; None takes rendered scenes.
        replace: overwrite a bundle of the same name.
    """

    precisions: tuple[str, ...] = ("fp32",)
    input_size: int | None = None
    opset: int = DEFAULT_OPSET
    verify_on: Dataset | None = None
    replace: bool = False


def export_bundle(
    checkpoint: Path, out: Path, options: ExportOptions, progress: Callable[[str], None] = lambda step: None
) -> Manifest:
    """Export a checkpoint to the bundle folder `out`.

    Args:
        progress: called with the name of each step as it begins.

    Raises:
        InputError: bad checkpoint, options or target folder; nothing is written.
        GateError: the exported graphs do not verify; nothing is written.
        EngineError: ONNX Runtime, which verification needs, is missing.
    """
    _check(options)
    if options.replace and out.exists() and not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is no bundle, so it is not replaced; choose another name.")
    with atomic_folder(out, replace=options.replace) as folder:
        progress("loading the checkpoint")
        loaded = load_checkpoint(checkpoint)
        model, config = loaded.model, loaded.model.config
        spec = InputSpec(check_input_size(options.input_size or config.input_size))
        digest = sha256(checkpoint)
        entry = ModelEntry(
            id=hashlib.sha256(f"{digest} {spec.size}".encode()).hexdigest()[:16],
            config=config.to_dict(),
            checkpoint_sha256=digest,
            origin=loaded.origin,
            prototype_channels=config.width,
            key_channels=model.backbone.channels[2],
            feature_size=feature_sizes(model, spec.size)[1],
        )
        reference = FullNetwork(model, spec)
        cases = [*random_cases(_SEED), *dataset_cases(options.verify_on or ProceduralDataset(_SEED), _SEED)]
        signatures = {
            "support": support_signature(spec.size),
            "query": query_signature(spec.size, entry.prototype_channels, entry.key_channels),
        }
        files: list[FileEntry] = []
        verification = []
        segmenters: list[Segmenter] = []
        for precision in options.precisions:
            dtype = PRECISIONS[precision]
            contents = {}
            for role, kind in (("support", SupportGraph), ("query", QueryGraph)):
                progress(f"exporting the {role} graph in {precision}")
                path = folder / (f"{role}.onnx" if precision == "fp32" else f"{role}.{precision}.onnx")
                write_onnx(kind(model, spec.size, dtype).eval(), signatures[role], path, options.opset)
                found = found_precision(path)
                if found != precision:
                    raise RuntimeError(f"{path.name} was asked for in {precision} and came out in {found}.")
                files.append(_entry(path, role, "onnx", precision, found, {"opset": options.opset}))
                contents[role] = path.read_bytes()
            progress(f"verifying {precision} against PyTorch")
            engine = OnnxEngine("onnx-cpu", precision, contents["support"], contents["query"])
            segmenters.append(Segmenter(engine, spec, entry))
            verification.append(verify(segmenters[-1], reference, cases))
        progress("writing the self-test and the manifest")
        path = folder / SELF_TEST
        test = make_self_test(reference, cases)
        with saving_tensors():
            save_file({k: np.ascontiguousarray(v) for k, v in vars(test).items()}, path)
        files.append(_entry(path, "self-test", "", "", "", {}))
        manifest = Manifest(
            name=out.name.removesuffix(".ntre"),
            model=entry,
            input=spec,
            files=tuple(files),
            verification=verification,
            versions=versions(),
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        progress("running the self-test as every user will")
        bundle = Bundle.open(folder)
        for segmenter in segmenters:
            try:
                segmenter.run_self_test(bundle)
            except NtreError as error:
                raise GateError(f"The bundle fails its own self-test and was not written: {error}") from error
    return manifest


def make_self_test(reference: FullNetwork, cases: Sequence[Case], side: int = 160) -> SelfTest:
    """A small episode and what the training graph makes of it.

    Of the cases' first supports and a few rendered scenes, the one is taken whose decisions are farthest from a tie,
    so that another processor does not decide one of them otherwise.
    """
    # other ones than the scenes that verification takes where it is given no dataset
    rendered = dataset_cases(ProceduralDataset(_SEED), _SEED + 10)
    best: tuple[float, SelfTest] | None = None
    for case in [*cases, *rendered]:
        image, mask = case.shots[0]
        query, image = _shrink(case.query, side, cv2.INTER_AREA), _shrink(image, side, cv2.INTER_AREA)
        mask = _shrink((mask == 1).astype(np.uint8), side, cv2.INTER_NEAREST)
        if prepare_mask(mask, reference.spec).mean() < _LEAST_TARGET:
            continue
        prediction, box = reference.predict(query, reference.prepare([(image, mask)]))
        logits = prediction.logits.numpy()
        labels = label_map(logits, box)
        decisions = [*prediction.initial_logits, *([] if prediction.bg_logits is None else [prediction.bg_logits])]
        margins = [((x[:, 1] - x[:, 0]).abs().min() / x.abs().max().clamp_min(1e-6)).item() for x in decisions]
        # both classes in the mask come first: a mask of one class says little
        rank = (1.0 if 0 < labels.mean() < 1 else 0.0) + min(margins, default=0.0)
        if best is None or rank > best[0]:
            best = rank, SelfTest(query, image, mask, labels, logits[0])
    assert best is not None, "rendered scenes have targets that are large enough"
    return best[1]


def _shrink(picture: Pixels, side: int, method: int) -> Pixels:
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _check(options: ExportOptions) -> None:
    if not options.precisions or any(p not in PRECISIONS for p in options.precisions):
        raise InputError(f"Precisions {list(options.precisions)} are not of {', '.join(PRECISIONS)}.")
    check_opset(options.opset)
    if options.input_size is not None:
        check_input_size(options.input_size)
    if reason := cpu_unavailable():
        raise EngineError(f"Export verifies what it wrote in ONNX Runtime, but {reason}.")


def _entry(path: Path, role: str, engine: str, asked: str, found: str, details: dict[str, int]) -> FileEntry:
    return FileEntry(path.name, role, engine, asked, found, path.stat().st_size, sha256(path), dict(details))

"""`export_bundle`: a checkpoint to a verified bundle on disk, whole or not at all."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.export.graph import QueryGraph, SupportGraph, feature_sizes
from ntre_deploy.export.onnx import (
    DEFAULT_OPSET,
    OPSETS,
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
from ntre_deploy.runtime.bundle import SELF_TEST, SelfTest
from ntre_deploy.runtime.engines.onnx import OnnxEngine, cpu_unavailable
from ntre_deploy.runtime.image import InputSpec, label_map
from ntre_deploy.runtime.manifest import MANIFEST, FileEntry, Manifest, ModelEntry
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.versions import versions

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
_SEED = 2022


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
            verification.append(verify(Segmenter(engine, spec, entry), reference, cases))
        progress("writing the self-test and the manifest")
        path = folder / SELF_TEST
        test = self_test(reference, cases[-1])
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
    return manifest


def self_test(reference: FullNetwork, case: Case, side: int = 160) -> SelfTest:
    """A small episode from `case`'s first support, and what the training graph makes of it."""

    def shrink(picture: np.ndarray, method: int) -> np.ndarray:
        scale = side / max(picture.shape[:2])
        return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)

    image, mask = case.shots[0]
    query, image = shrink(case.query, cv2.INTER_AREA), shrink(image, cv2.INTER_AREA)
    mask = shrink((mask == 1).astype(np.uint8), cv2.INTER_NEAREST)
    logits, box = reference.logits(query, reference.prepare([(image, mask)]))
    return SelfTest(query, image, mask, label_map(logits, box), logits[0])


def _check(options: ExportOptions) -> None:
    if not options.precisions or any(p not in PRECISIONS for p in options.precisions):
        raise InputError(f"Precisions {list(options.precisions)} are not of {', '.join(PRECISIONS)}.")
    if options.opset not in OPSETS:
        span = f"{OPSETS.start} to {OPSETS.stop - 1}"
        raise InputError(f"Opset {options.opset} is not supported; choose {span}, which PyTorch's exporter honours.")
    if options.input_size is not None:
        check_input_size(options.input_size)
    if reason := cpu_unavailable():
        raise EngineError(f"Export verifies what it wrote in ONNX Runtime, but {reason}.")


def _entry(path: Path, role: str, engine: str, asked: str, found: str, details: dict[str, int]) -> FileEntry:
    return FileEntry(path.name, role, engine, asked, found, path.stat().st_size, sha256(path), dict(details))

"""`export_bundle`: a checkpoint to a verified bundle on disk, whole or not at all."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from ntre_deploy.data.dataset import Dataset
from ntre_deploy.data.procedural import ProceduralDataset
from ntre_deploy.errors import EngineError, GateError, InputError, NtreError, one_of
from ntre_deploy.export.fp8 import fp8_quantiser
from ntre_deploy.export.graphs import QueryBase, SupportBase, query_graph, support_graph
from ntre_deploy.export.imitation import imitated
from ntre_deploy.export.onnx import (
    DEFAULT_OPSET,
    LEAST_OPSETS,
    check_onnx,
    check_opset,
    found_precision,
    query_signature,
    support_signature,
    write_onnx,
)
from ntre_deploy.export.openvino import READS, check_available, describe
from ntre_deploy.export.quantise import Contents, build_int8, build_quantised, draw_calibration
from ntre_deploy.export.quantise import unavailable as quantiser_unavailable
from ntre_deploy.export.stored import EPISODES, make_reference, make_self_test, usable
from ntre_deploy.export.torch_engines import FullNetwork
from ntre_deploy.export.verify import NOISE, dataset_cases, random_cases, verify
from ntre_deploy.files import atomic_folder, saving_tensors, sha256
from ntre_deploy.model.checkpoint import load_checkpoint
from ntre_deploy.model.config import check_input_size, input_spec
from ntre_deploy.model.network import FewShotNetwork
from ntre_deploy.plans import options as tensorrt
from ntre_deploy.plans.files import Request, write_plans
from ntre_deploy.plans.options import TensorRtOptions
from ntre_deploy.runtime.bundle import REFERENCE, SELF_TEST, Bundle
from ntre_deploy.runtime.engines import Engine
from ntre_deploy.runtime.engines.onnx import OnnxEngine, cpu_unavailable
from ntre_deploy.runtime.engines.openvino import OpenVinoEngine
from ntre_deploy.runtime.engines.tensorrt import ENGINES as PLANS
from ntre_deploy.runtime.engines.tensorrt import TensorRtEngine
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.manifest import MANIFEST, EngineEntry, FileEntry, Manifest, ModelEntry
from ntre_deploy.runtime.reference import pack_reference
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.versions import versions

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# what can be exported for each engine; int8 files come from the fp32 ones, fp8 files from the fp16 ones
ENGINE_PRECISIONS = {
    "onnx": (*PRECISIONS, "int8", "fp8"),
    "openvino": tuple(READS),
    **dict.fromkeys(PLANS, tensorrt.PRECISIONS),
}
_QUANTISED = ("int8", "fp8")
_SEED = 2022
# engine and precision -> compute capabilities that it is built for
Targets = dict[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class ExportOptions:
    """How a bundle is made.

    Attributes:
        precisions: to build for those of `engines` that have them; `ENGINE_PRECISIONS` tells which.
        input_size: side of the square input, 8k + 1; None takes the checkpoint's.
        opset: of the ONNX files; bf16 and fp8 take a later one where they need it.
        verify_on: dataset of the inputs beside the random ones; None takes rendered scenes.
        replace: overwrite a bundle of the same name.
        engines: of `ENGINE_PRECISIONS`; all of them read ONNX files, which ONNX Runtime verifies (bf16: `imitation`).
        calibrate_on: photos that set the ranges of int8 and fp8; None takes rendered scenes.
        tensorrt: how plans for TensorRT and TensorRT for RTX are built.
        reference: dataset of the reference set; None takes `verify_on`, or rendered scenes.
        reference_episodes: number of its episodes; 0 leaves it out.
    """

    precisions: tuple[str, ...] = ("fp32",)
    input_size: int | None = None
    opset: int = DEFAULT_OPSET
    verify_on: Dataset | None = None
    replace: bool = False
    engines: tuple[str, ...] = ("onnx",)
    calibrate_on: Dataset | None = None
    tensorrt: TensorRtOptions = field(default_factory=TensorRtOptions)
    reference: Dataset | None = None
    reference_episodes: int = EPISODES


class _Network(NamedTuple):
    model: FewShotNetwork
    spec: InputSpec
    entry: ModelEntry


@dataclass
class _Built:
    files: list[FileEntry] = field(default_factory=list)
    engines: list[EngineEntry] = field(default_factory=list)
    segmenters: list[Segmenter] = field(default_factory=list)

    def close(self) -> None:
        """Let go of the GPU, where an engine holds it."""
        for segmenter in self.segmenters:
            if isinstance(segmenter.engine, TensorRtEngine):
                segmenter.engine.close()


def export_bundle(
    checkpoint: Path, out: Path, options: ExportOptions, progress: Callable[[str], None] = lambda step: None
) -> Manifest:
    """Export a checkpoint to the bundle folder `out`.

    Args:
        progress: called with the name of each step as it begins.

    Raises:
        InputError: bad checkpoint, options or target folder; nothing is written.
        GateError: the exported graphs do not verify; nothing is written.
        EngineError: an engine or NNCF is missing, or this machine cannot verify a precision.
    """
    targets = _check(options)
    if options.replace and out.exists() and not (out / MANIFEST).is_file():
        raise InputError(f"{out} exists and is no bundle, so it is not replaced; choose another name.")
    with atomic_folder(out, replace=options.replace) as folder:
        progress("loading the checkpoint")
        loaded = load_checkpoint(checkpoint)
        model, config = loaded.model, loaded.model.config
        spec = input_spec(config, options.input_size)
        # some heads have demands of their own on the size
        replace(config, input_size=spec.size)
        digest = sha256(checkpoint)
        entry = ModelEntry(
            id=hashlib.sha256(f"{digest} {spec.size}".encode()).hexdigest()[:16],
            config=config.to_dict(),
            checkpoint_sha256=digest,
            origin=loaded.origin,
            prototype_channels=model.prototype_channels,
            key_channels=model.key_channels,
            feature_size=query_graph(model, spec.size).feature,
        )
        reference = FullNetwork(model, spec)
        cases = [*random_cases(_SEED), *dataset_cases(options.verify_on or ProceduralDataset(_SEED), _SEED)]
        built = _build(folder, _Network(model, spec, entry), options, targets, progress)
        verification = []
        for segmenter in built.segmenters:
            engine = segmenter.engine
            progress(f"verifying {engine.name} {engine.precision} against PyTorch")
            # the ranges of int8 and fp8 are those of photos: noise lies outside, and proves nothing
            fitting = [case for case in cases if engine.precision not in _QUANTISED or case.kind != NOISE]
            verification.append(verify(segmenter, reference, fitting))
        progress("writing the self-test and the manifest")
        path = folder / SELF_TEST
        test = make_self_test(reference, cases, _SEED)
        with saving_tensors():
            save_file({k: np.ascontiguousarray(v) for k, v in vars(test).items()}, path)
        built.files.append(_entry(path, "self-test", "", "", "", {}))
        if options.reference_episodes:
            progress("writing the reference set")
            scenes = options.reference or options.verify_on or ProceduralDataset(_SEED)
            (folder / REFERENCE).write_bytes(
                pack_reference(make_reference(reference, scenes, options.reference_episodes, _SEED))
            )
            built.files.append(_entry(folder / REFERENCE, "reference", "", "", "", {"dataset": scenes.name}))
        manifest = Manifest(
            name=out.name.removesuffix(".ntre"),
            model=entry,
            input=spec,
            files=tuple(built.files),
            verification=verification,
            versions=versions(),
            engines=tuple(built.engines),
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        progress("running the self-test as every user will")
        bundle = Bundle.open(folder)
        for segmenter in built.segmenters:
            try:
                segmenter.run_self_test(bundle)
            except NtreError as error:
                raise GateError(f"The bundle fails its own self-test and was not written: {error}") from error
        built.close()
    return manifest


def _build(
    folder: Path, network: _Network, options: ExportOptions, targets: Targets, progress: Callable[[str], None]
) -> _Built:
    """Write the graphs, and open every engine on them that was asked for."""
    built = _Built()
    for precision in _file_precisions(options):
        details: dict[str, Any] = {"opset": _opset(options, precision)}
        reader = "onnx"
        if precision in PRECISIONS:
            contents, paths = _write(folder, network, precision, options, progress)
        else:
            # with an engine of its own, only that one proves the file
            if precision == "int8" and "openvino" in options.engines and "onnx" not in options.engines:
                reader = "openvino"
            contents, paths, told = _write_quantised(folder, network, precision, options, reader, progress)
            details |= told
        for role, path in paths.items():
            found = found_precision(path)
            # quantisation may leave one of the two graphs as it was; the engines tell what they make of it
            if found != precision and precision in PRECISIONS:
                raise RuntimeError(f"{path.name} was asked for in {precision} and came out in {found}.")
            built.files.append(_entry(path, role, reader, precision, precision, details))
        engines: list[Engine] = []
        if reader == "onnx":
            engines.append(_engine("onnx", precision, contents))
        if "openvino" in options.engines:
            for asked in (p for p in options.precisions if READS.get(p) == precision):
                progress(f"compiling for openvino in {asked}")
                engine = OpenVinoEngine(asked, contents["support"], contents["query"])
                built.engines.append(describe(engine, {role: path.name for role, path in paths.items()}))
                engines.append(engine)
        for (name, asked), capabilities in targets.items():
            if asked == precision:
                request = Request(name, precision, capabilities, network.spec.size, network.entry)
                plans, plan_engine = write_plans(folder, contents, request, options.tensorrt, progress)
                built.files += plans
                engines += [plan_engine] if plan_engine is not None else []
        built.segmenters += [Segmenter(engine, network.spec, network.entry) for engine in engines]
    return built


def _file_precisions(options: ExportOptions) -> list[str]:
    """Precisions of the ONNX files that the engines need, fp32 first: the others are made of it."""
    needed = {READS[p] for p in options.precisions if "openvino" in options.engines and p in READS}
    if "onnx" in options.engines:
        # beside OpenVINO, bf16 is what OpenVINO makes of the fp32 files
        others = {"bf16"} if "openvino" in options.engines else set()
        needed |= {p for p in options.precisions if p in ENGINE_PRECISIONS["onnx"]} - others
    if set(PLANS) & set(options.engines):
        needed |= {p for p in options.precisions if p in tensorrt.PRECISIONS}
    return [p for p in ENGINE_PRECISIONS["onnx"] if p in needed]


def _write(
    folder: Path,
    network: _Network,
    precision: str,
    options: ExportOptions,
    progress: Callable[[str], None],
    opset: int | None = None,
) -> tuple[Contents, dict[str, Path]]:
    model, spec, entry = network
    signatures = {
        "support": support_signature(spec.size),
        "query": query_signature(spec.size, entry.prototype_channels, entry.key_channels, PRECISIONS[precision]),
    }
    paths = {}
    graphs: dict[str, SupportBase | QueryBase] = {
        "support": support_graph(model, spec.size, PRECISIONS[precision]),
        "query": query_graph(model, spec.size, PRECISIONS[precision]),
    }
    for role, graph in graphs.items():
        progress(f"exporting the {role} graph in {precision}")
        paths[role] = folder / _file_name(role, precision)
        write_onnx(graph, signatures[role], paths[role], opset or _opset(options, precision))
    return {role: path.read_bytes() for role, path in paths.items()}, paths


def _write_quantised(
    folder: Path,
    network: _Network,
    precision: str,
    options: ExportOptions,
    reader: str,
    progress: Callable[[str], None],
) -> tuple[Contents, dict[str, Path], dict[str, Any]]:
    """Quantise the fp32 graphs to int8, or the fp16 graphs to fp8."""
    opset = _opset(options, precision)
    fp32 = _graphs(folder, network, "fp32", options, options.opset, progress)
    source = fp32 if precision == "int8" else _graphs(folder, network, "fp16", options, opset, progress)
    # measured on the engine that will run it
    judge = "openvino" if precision == "int8" and "openvino" in options.engines else reader
    segmenter = Segmenter(_engine(judge, "fp32", fp32), network.spec, network.entry)
    scenes = options.calibrate_on or ProceduralDataset(_SEED + 1)

    def make(precision: str, support: bytes, query: bytes) -> Engine:
        return _engine(judge, precision, {"support": support, "query": query})

    if precision == "int8":
        signed = any(engine in PLANS for engine in options.engines)
        contents, told = build_int8(source, scenes, segmenter, make, progress, signed=signed)
    else:
        contents, told = build_quantised(source, scenes, segmenter, make, fp8_quantiser(), precision, progress)
    paths = {role: folder / f"{role}.{precision}.onnx" for role in contents}
    for role, path in paths.items():
        path.write_bytes(contents[role])
        check_onnx(path, opset)
    return contents, paths, told


def _graphs(
    folder: Path,
    network: _Network,
    precision: str,
    options: ExportOptions,
    opset: int,
    progress: Callable[[str], None],
) -> Contents:
    """Graphs to quantise, which the folder holds already where they were asked for too and in that opset."""
    paths = {role: folder / _file_name(role, precision) for role in ("support", "query")}
    if paths["query"].exists() and opset == options.opset:
        return {role: path.read_bytes() for role, path in paths.items()}
    with tempfile.TemporaryDirectory() as scratch:
        return _write(Path(scratch), network, precision, options, progress, opset)[0]


def _file_name(role: str, precision: str) -> str:
    return f"{role}.onnx" if precision == "fp32" else f"{role}.{precision}.onnx"


def _opset(options: ExportOptions, precision: str) -> int:
    return max(options.opset, LEAST_OPSETS.get(precision, 0))


def _engine(name: str, precision: str, contents: Contents) -> Engine:
    if name == "openvino":
        return OpenVinoEngine(precision, contents["support"], contents["query"])
    if precision == "bf16":
        runs = {role: imitated(content) for role, content in contents.items()}
        return OnnxEngine("onnx-cpu-imitating", precision, runs["support"], runs["query"])
    return OnnxEngine("onnx-cpu", precision, contents["support"], contents["query"])


def _check(options: ExportOptions) -> Targets:
    for engine in options.engines:
        one_of(engine, ENGINE_PRECISIONS, "Engine")
    offered = list(dict.fromkeys(p for e in options.engines for p in ENGINE_PRECISIONS[e]))
    if not options.precisions or any(p not in offered for p in options.precisions):
        raise InputError(
            f"Precisions {list(options.precisions)} are not of {', '.join(offered)} (for {', '.join(options.engines)})."
        )
    for engine in options.engines:
        if not set(options.precisions) & set(ENGINE_PRECISIONS[engine]):
            raise InputError(
                f"{engine} has none of the precisions {', '.join(options.precisions)}; "
                f"it offers {', '.join(ENGINE_PRECISIONS[engine])}."
            )
    check_opset(options.opset)
    if options.input_size is not None:
        check_input_size(options.input_size)
    if reason := cpu_unavailable():
        raise EngineError(f"Export verifies what it wrote in ONNX Runtime, but {reason}.")
    if "openvino" in options.engines:
        check_available(tuple(p for p in options.precisions if p in READS))
    if "int8" in options.precisions and (reason := quantiser_unavailable()):
        raise EngineError(f"int8 cannot be made here: {reason}.")
    if options.reference is not None:
        usable(options.reference)
    if options.calibrate_on is not None and any(p in options.precisions for p in _QUANTISED):
        draw_calibration(options.calibrate_on)
    built = [(e, p) for e in options.engines if e in PLANS for p in options.precisions if p in ENGINE_PRECISIONS[e]]
    return {(engine, precision): tensorrt.targets(engine, precision, options.tensorrt) for engine, precision in built}


def _entry(path: Path, role: str, engine: str, asked: str, found: str, details: dict[str, Any]) -> FileEntry:
    return FileEntry(path.name, role, engine, asked, found, path.stat().st_size, sha256(path), dict(details))

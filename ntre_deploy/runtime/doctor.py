"""What this machine can run, and why not: every check really tries what it reports."""

import base64
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ntre_deploy.errors import NtreError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cpu import cpu_flags
from ntre_deploy.runtime.engines import available_engines, engine_precisions
from ntre_deploy.runtime.segmenter import Segmenter

Status = Literal["ok", "absent", "problem"]

# the ONNX graph y = x + x over two numbers
_TINY_ONNX = base64.b64decode("CAg6NQoOCgF4CgF4EgF5IgNBZGQSAWdaDwoBeBIKCggIARIECgIIAmIPCgF5EgoKCAgBEgQKAggCQgQKABAS")
# distribution -> extra that brings it; empty for the base install
_PACKAGES = {
    "numpy": "",
    "opencv-python-headless": "",
    "Pillow": "",
    "safetensors": "",
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "torch": "export",
    "openvino": "openvino",
    "onnx": "export",
    "onnxscript": "export",
    "nncf": "int8",
    "tensorrt": "trt",
    "tensorrt-rtx": "trt-rtx",
    "cuda-bindings": "trt",
    "pycuda": "pycuda",
    "pycocotools": "coco",
}
# pairs that install into the same folder and break each other
_CONFLICTS = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python", "opencv-python-headless"))
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")
_MIN_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it stands, and the command that mends it."""

    subject: str
    status: Status
    text: str
    fix: str = ""


def diagnose(bundle: Path | None = None) -> list[Finding]:
    """All findings, in the order in which a person reads them; with a bundle, it is loaded by every engine."""
    findings = [_python(), *_packages(), *_conflicts(), _cpu(), _gpu(), *_providers(), *_engines(), _disk()]
    return findings + (list(_bundle(bundle)) if bundle is not None else [])


def can_run(findings: list[Finding]) -> bool:
    """Whether some engine works and, where a bundle was checked, runs it."""
    subjects = [f for f in findings if f.subject.startswith("bundle")] or [
        f for f in findings if f.subject.startswith("engine")
    ]
    return any(f.status == "ok" for f in subjects)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", text)


def _packages() -> Iterator[Finding]:
    for name, extra in _PACKAGES.items():
        found = _version(name)
        if found:
            yield Finding(name, "ok", found)
        elif any(name in pair and any(_version(other) for other in pair) for pair in _CONFLICTS):
            continue  # its counterpart is there, and only one of the two may be
        else:
            target = f"'ntre_deploy[{extra}]'" if extra else "--force-reinstall ntre_deploy"
            yield Finding(name, "absent" if extra else "problem", "not installed", f"pip install {target}")


def _conflicts() -> Iterator[Finding]:
    for first, second in _CONFLICTS:
        if _version(first) and _version(second):
            yield Finding(
                "conflict",
                "problem",
                f"{first} and {second} share a folder and break each other",
                f"pip uninstall -y {first} {second} && pip install {second}",
            )


def _cpu() -> Finding:
    found = [name for name in _CPU_FEATURES if name in cpu_flags()]
    return Finding("cpu", "ok", f"{os.cpu_count()} cores, {', '.join(found) or 'features unknown'}")


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", "absent", "no NVIDIA driver (nvidia-smi is not there)")
    query = [tool, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", "problem", f"nvidia-smi fails: {error}", "reinstall the NVIDIA driver")
    return Finding("gpu", "ok", "; ".join(result.stdout.strip().splitlines()))


def _providers() -> Iterator[Finding]:
    """ONNX Runtime's providers, each with a small graph that it must really run."""
    if importlib.util.find_spec("onnxruntime") is None:
        return
    try:
        import numpy as np
        import onnxruntime

        names = [
            n for n in onnxruntime.get_available_providers() if n in ("CPUExecutionProvider", "CUDAExecutionProvider")
        ]
    # a broken install fails in ways of its own
    except Exception as error:
        yield Finding(
            "onnxruntime", "problem", f"does not import: {error}", "pip install --force-reinstall onnxruntime"
        )
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for name in names:
        try:
            session = onnxruntime.InferenceSession(_TINY_ONNX, options, providers=[name])
            (result,) = session.run(None, {"x": np.ones(2, np.float32)})
            used = session.get_providers()[0]
        except Exception as error:
            yield Finding(name, "problem", str(error).splitlines()[0], "check the driver and CUDA versions")
            continue
        if used != name or result.tolist() != [2.0, 2.0]:
            yield Finding(name, "problem", f"falls back to {used}", "check that CUDA and cuDNN fit onnxruntime-gpu")
        else:
            yield Finding(name, "ok", "runs a small graph")


def _engines() -> Iterator[Finding]:
    for name, reason in available_engines().items():
        yield Finding(f"engine {name}", "absent" if reason else "ok", reason or "available")


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    try:
        with tempfile.TemporaryFile(dir=here):
            pass
    except OSError as error:
        return Finding("disk", "problem", f"{here} cannot be written: {error.strerror}", "change to another folder")
    if free < _MIN_FREE_GB:
        return Finding("disk", "problem", f"{free:.1f} GB free in {here}", "free some space before an export")
    return Finding("disk", "ok", f"{free:.0f} GB free in {here}")


def _bundle(path: Path) -> Iterator[Finding]:
    try:
        bundle = Bundle.open(path)
        for entry in bundle.manifest.files:
            bundle.read(entry)
    except NtreError as error:
        yield Finding("bundle", "problem", str(error))
        return
    for name, reason in available_engines().items():
        for precision in engine_precisions(bundle, name):
            subject = f"bundle on {name} {precision}"
            if reason:
                yield Finding(subject, "absent", reason)
                continue
            try:
                Segmenter.load(path, name, precision=precision)
                yield Finding(subject, "ok", "self-test passed")
            except NtreError as error:
                yield Finding(subject, "problem", str(error))

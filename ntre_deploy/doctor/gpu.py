"""NVIDIA's driver, asked directly, and JetPack; no CUDA toolkit or package is needed for it."""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

from ntre_deploy.doctor.findings import Finding
from ntre_deploy.doctor.probe import Step

# release of Linux for Tegra -> JetPack (NVIDIA's "JetPack archive")
_JETPACK = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7"}
_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
# of CUresult
_NO_DEVICE = 100
# of CUdevice_attribute
_MAJOR, _MINOR = 75, 76
_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_NVIDIA, _DISPLAY = "0x10de", "0x03"


def on_jetson(root: Path = Path("/")) -> bool:
    """Whether this is a Jetson."""
    return (root / "etc" / "nv_tegra_release").is_file()


def jetpack(root: Path = Path("/")) -> Iterator[Finding]:
    """The JetPack of a Jetson, nothing elsewhere; `root` is where the system's files are."""
    if not on_jetson(root):
        return
    model = _text(root / "proc" / "device-tree" / "model").strip("\0\n ") or "a Jetson"
    match = _L4T.search(_text(root / "etc" / "nv_tegra_release"))
    if match is None:
        yield Finding("machine", "jetpack", "warning", f"{model}; /etc/nv_tegra_release does not tell the release")
        return
    release, revision = match.groups()
    text = f"{model}, L4T {release}.{revision}"
    if release in _JETPACK:
        yield Finding("machine", "jetpack", "ok", f"JetPack {_JETPACK[release]} on {text}")
    else:
        yield Finding("machine", "jetpack", "warning", f"unknown JetPack on {text}")


def gpu_steps() -> Iterator[Step]:
    """The driver and its devices."""
    yield Step("machine", "gpu", _gpu, "reinstall the NVIDIA driver and restart")


def _gpu() -> Iterator[Finding]:
    driver = _driver()
    if driver is None:
        if seen := _on_the_bus():
            yield Finding(
                "machine",
                "gpu",
                "warning",
                f"{seen}, but the driver's libcuda does not load",
                "install the NVIDIA driver (in a container: docker run --gpus all)",
            )
        else:
            yield Finding("machine", "gpu", "absent", "no NVIDIA driver (libcuda is not there)")
        return
    if code := driver.cuInit(0):
        text = f"the driver finds no usable GPU: {_error(driver, code)}"
        if code == _NO_DEVICE and not _on_the_bus():
            yield Finding("machine", "gpu", "absent", text)
        else:
            yield Finding(
                "machine", "gpu", "problem", text, "nvidia-smi (it tells more); restart after a driver update"
            )
        return
    version, count = ctypes.c_int(), ctypes.c_int()
    for code in (driver.cuDriverGetVersion(ctypes.byref(version)), driver.cuDeviceGetCount(ctypes.byref(count))):
        if code:
            yield Finding("machine", "gpu", "problem", f"the driver fails: {_error(driver, code)}", "nvidia-smi")
            return
    runs = f"CUDA up to {version.value // 1000}.{version.value % 1000 // 10}"
    known = f"driver {number}, " if (number := _driver_version()) else ""
    for index in range(count.value):
        subject = "gpu" if index == 0 else f"gpu {index}"
        yield Finding("machine", subject, "ok", f"{_device(driver, index)}; {known}{runs}{_toolkit()}")


def _driver() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _device(driver: ctypes.CDLL, index: int) -> str:
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), index)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, index)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, index)
    text = name.value.decode(errors="replace")
    return f"{text}, sm_{major.value}{minor.value}, {size.value / 1e9:.1f} GB"


def _error(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    return (text.value or b"unknown error").decode(errors="replace") + f" ({code})"


def _driver_version() -> str:
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Thu ..."
    match = re.search(r"Module[^\n]*?\s(\d+\.[\d.]+)", _text(Path("/proc/driver/nvidia/version")))
    return match.group(1) if match else ""


def _toolkit() -> str:
    match = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', _text(Path("/usr/local/cuda/version.json")))
    return f", toolkit {match.group(1)} in /usr/local/cuda" if match else ""


def _on_the_bus() -> str:
    for device in Path("/sys/bus/pci/devices").glob("*"):
        kind = _text(device / "class")
        if _text(device / "vendor").strip() == _NVIDIA and kind.startswith(_DISPLAY):
            return f"an NVIDIA GPU is on the bus ({device.name})"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

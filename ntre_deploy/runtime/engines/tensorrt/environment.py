"""Where an engine was built and where it would run: what differs, and the command that rebuilds it.

A plan is native code for one library version, operating system, processor and GPU architecture.  TensorRT's own
refusal comes late and says little, so the manifest's record is compared first.
"""

import platform
from collections.abc import Mapping
from typing import Any

from ntre_deploy.runtime.cuda import capability_pair
from ntre_deploy.runtime.engines.tensorrt.api import Library, title

HARDWARE_LEVELS = ("none", "ampere-plus", "same-compute-capability")
_AMPERE = (8, 0)


def system() -> dict[str, str]:
    """Operating system and processor, as plans are bound to them."""
    return {"os": platform.system().lower(), "machine": platform.machine().lower().replace("amd64", "x86_64")}


def differences(details: Mapping[str, Any], engine: str, library: Library, capability: str) -> list[str]:
    """What keeps an engine from running here, as phrases; empty where nothing does.

    Args:
        details: of the engine's file, as the manifest records them; a value that is missing differs.
        engine: `trt` or `trt-rtx`, whose file it is.
        capability: compute capability of the GPU here, such as `8.6`.
    """
    found = []
    version = str(details.get("version", "?"))
    same = version == library.version
    if details.get("version_compatible") is True:
        same = same or version.split(".")[0] == library.version.split(".")[0]
    if not same:
        found.append(f"it was built by {title(engine)} {version} and {library.version} is here")
    for key, value in system().items():
        if details.get(key) != value:
            found.append(f"it was built for {details.get(key, '?')} and this is {value}")
    built = details.get("compute_capabilities")
    names = [str(c) for c in built] if isinstance(built, list) else []
    if not _runs(capability, names, str(details.get("hardware_compatibility", "none"))):
        found.append(f"it was built for compute capability {' and '.join(names) or '?'} and this GPU has {capability}")
    return found


def rebuild_command(name: str, engine: str, precision: str, capability: str | None = None) -> str:
    """The command that builds a bundle's engine on this machine; `name` is the bundle's folder."""
    target = f" --sm {capability}" if capability and engine == "trt-rtx" else ""
    return f"ntre build {name} --engine {engine} --precision {precision}{target}"


def _runs(here: str, built: list[str], level: str) -> bool:
    if here in built:
        return True
    pair = capability_pair(here)
    return level == "ampere-plus" and pair is not None and pair >= _AMPERE

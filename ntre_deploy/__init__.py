"""NTRENet few-shot segmentation, exported and run without PyTorch.

`Segmenter` and `SupportMemory` are the runtime; they load on first use, so that importing the package costs little.
"""

import os
from typing import TYPE_CHECKING, Any

from ntre_deploy.errors import EngineError, GateError, InputError, NtreError

if TYPE_CHECKING:
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.support import SupportMemory

# newer versions of ONNX Runtime write an id and a database into the user's cache as soon as they are imported; who
# wants to send reports sets this to 0
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["EngineError", "GateError", "InputError", "NtreError", "Segmenter", "SupportMemory", "__version__"]

_LAZY = {"Segmenter": "ntre_deploy.runtime.segmenter", "SupportMemory": "ntre_deploy.runtime.support"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

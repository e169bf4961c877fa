"""Exported graphs kept between runs: tracing a small network takes longer than everything else about its export.

It is off unless `NTRE_GRAPH_CACHE` names a folder.  A graph is found again by all that makes its file: classes,
settings and weights of every module, the sources of the rooms that make graphs, the versions of the exporter, the
signature and the opset.  What is taken from the folder passes the checks of a fresh file.
"""

import hashlib
import io
import os
import pickle
import shutil
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ntre_deploy
from ntre_deploy.files import atomic_file

VARIABLE = "NTRE_GRAPH_CACHE"
_EXPORTER = ("torch", "onnx", "onnxscript", "onnx_ir")
# what the modules of a graph and its writer import, beside the files of the package itself
ROOMS = ("export", "model", "runtime")


class GraphCache:
    """The kept file of one graph.

    Args:
        graph: a deploy graph.
        *settings: whatever else its file depends on; each is told by its `repr`.
    """

    def __init__(self, graph: nn.Module, *settings: object) -> None:
        folder = os.environ.get(VARIABLE)
        content = _content(graph) if folder else None
        self._path: Path | None = None
        if folder and content is not None:
            digest = hashlib.sha256(content)
            for part in (_sources(), *map(repr, settings)):
                digest.update(part.encode() + b"\0")
            self._path = Path(folder) / f"{digest.hexdigest()}.onnx"

    def take(self, path: Path) -> bool:
        """Put the kept file under `path`, and tell whether there is one."""
        if self._path is None or not self._path.is_file():
            return False
        shutil.copyfile(self._path, path)
        return True

    def keep(self, path: Path) -> None:
        """Keep the file under `path` for later runs."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as temporary:
                shutil.copyfile(path, temporary)


class _Digests(pickle.Pickler):
    """Pickles tensors by their content: PyTorch's own way writes addresses of this process."""

    def reducer_override(self, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return NotImplemented
        raw = item.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
        told = (str(item.dtype), tuple(item.shape), hashlib.sha256(raw.tobytes()).hexdigest())
        return tuple, (told,)


def _content(graph: nn.Module) -> bytes | None:
    """All that a graph holds, as bytes; None for one with parts that cannot be told apart, such as a lambda."""
    stream = io.BytesIO()
    try:
        _Digests(stream).dump(graph)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return stream.getvalue()


@cache
def _sources() -> str:
    """A digest of the Python files that may change a graph, and of the exporter's versions."""
    digest = hashlib.sha256()
    package = Path(ntre_deploy.__file__).parent
    # `export` lies beside the package where that is a clone
    rooms = [Path(path) for name in ROOMS for path in import_module(f"ntre_deploy.{name}").__path__]
    for path in sorted([*package.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]):
        digest.update(path.read_bytes())
    for name in _EXPORTER:
        try:
            digest.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            digest.update(name.encode())
    return digest.hexdigest()

"""What every command measures: a bundle in this process and behind `ntre serve`, asked for the same photo."""

import importlib.metadata
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bodies import TARGET, Body, Pixels, labels_of_v2, memory, photo, v2_body
from load import need_hey
from servers import Client, Server, serving

from ntre_deploy.bench.machine import environment
from ntre_deploy.errors import GateError
from ntre_deploy.files import check_folder
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.cpu import usable_cores
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.service import Service
from ntre_deploy.serving.supports import Named

# by which clients know the bundle
MODEL = "model"
_PACKAGES = ("fastapi", "starlette", "uvicorn", "httptools", "uvloop", "python-multipart", "prometheus_client")


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for.

    Attributes:
        bundle: folder of `ntre export`.
        engine, precision: as of `ntre serve`.
        workers, threads: of the service and of the server; None takes their defaults.
        photo: None takes a rendered scene.
        seed: of that.
        queue: requests that may wait at the server.
    """

    bundle: Path
    engine: str = "onnx-cpu"
    precision: str = "fp32"
    workers: int | None = None
    threads: int | None = None
    photo: Path | None = None
    seed: int = 0
    queue: int = 64


@dataclass(frozen=True)
class Setting:
    """What is there for the length of a command.

    Attributes:
        service: in this process; it has the memory `TARGET`.
        memory: that one.
        server: with the same bundle, workers and threads.
        photo: JPEG of 640 x 480.
        body: a request of the open inference protocol with it.
        labels: what the service finds in it.
        folder: for files of the command.
    """

    wanted: Wanted
    opened: Bundle
    before: dict[str, Any]
    hey: str
    service: Service
    memory: SupportMemory
    server: Server
    photo: bytes
    body: Body
    labels: Pixels
    folder: Path

    @property
    def workers(self) -> int:
        """Photos that are worked on at once, on both sides."""
        return self.service.pool.workers

    @property
    def threads(self) -> int:
        """CPU threads of an engine."""
        return int(self.before["threads"])

    def told(self) -> dict[str, Any]:
        """For the result."""
        return {
            "engine": self.service.segmenter.engine.name,
            "precision": self.service.segmenter.engine.precision,
            "workers": self.workers,
            "engine_threads": self.threads,
            "queue": self.wanted.queue,
            "photo": {"pixels": list(self.labels.shape), "bytes": len(self.photo)},
            "server_versions": {"hey": self.hey} | {name: _version(name) for name in _PACKAGES},
        }


@contextmanager
def open_setting(wanted: Wanted, out: Path) -> Iterator[Setting]:
    """Open both sides, and see that they find the same.

    Args:
        out: where the result is written in the end.

    Raises:
        InputError, EngineError: something is missing or cannot be used.
        GateError: the server finds another label map than the service.
    """
    check_folder(out.parent)
    hey, opened = need_hey(), Bundle.open(wanted.bundle)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntre-serving-")))
        service = Service.open(
            wanted.bundle,
            engine=wanted.engine,
            precision=wanted.precision,
            workers=wanted.workers,
            threads=wanted.threads,
        )
        stack.callback(service.close)
        # the service has divided the processors among its workers
        threads = wanted.threads or max(1, usable_cores() // service.pool.workers)
        target = service.memories.put(TARGET, memory(service.segmenter, wanted.seed))
        jpeg = photo(wanted.photo, wanted.seed)
        options = ["--engine", f"{wanted.engine}:{wanted.precision}", "--queue", str(wanted.queue)]
        for name, value in (("--workers", wanted.workers), ("--threads", wanted.threads)):
            options += [] if value is None else [name, str(value)]
        before = environment(threads)
        server = stack.enter_context(serving(wanted.bundle, target, folder, MODEL, *options))
        body = v2_body(MODEL, jpeg)
        labels = service.segment(jpeg, [Named(TARGET)]).labels
        check_same(server, body, labels)
        yield Setting(wanted, opened, before, hey, service, target, server, jpeg, body, labels, folder)


def check_same(server: Server, body: Body, labels: Pixels) -> None:
    """See that a server finds the label map [H, W] that is right.

    Raises:
        GateError: it finds another one, or none.
    """
    client = Client(server.address)
    status, headers, data = client.post(body)
    client.close()
    if status != 200:
        raise GateError(
            f"{body.path} was answered with {status}: {' '.join(data[:300].decode(errors='replace').split())}"
        )
    found = labels_of_v2(headers["Inference-Header-Content-Length"], data)
    if not np.array_equal(found, labels):
        raise GateError(f"{body.path} gives another label map than the same bundle in this process.")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

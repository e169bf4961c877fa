"""A real Triton on loopback: the server of nvidia-pytriton's wheel, with this project in its Python backend."""

import importlib.util
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.repository import write_repository


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wheel = _load(Path(__file__).parents[3] / "benchmarks" / "serving" / "wheel.py")

# machines are busy: a wait ends when what it waits for is there
PATIENCE = 180.0

Arrays = dict[str, np.ndarray]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first value of `condition` that counts as true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


class Server:
    """A `tritonserver` that runs."""

    def __init__(self, environment: Any, repository: Path, folder: Path, ports: list[int], *options: str) -> None:
        self.repository = repository
        self.log = folder / "server.log"
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in ports)
        command: list[str | Path] = [
            environment.binary,
            f"--model-repository={repository}",
            f"--backend-directory={environment.backends}",
            *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
            *(f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
            "--exit-timeout-secs=3",
            *options,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment.variables, stdout=log, stderr=subprocess.STDOUT, cwd=folder
            )

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> "Server":
        import tritonclient.http as http

        def ready() -> bool:
            assert self.process.poll() is None, self.said()[-3000:]
            with suppress(Exception):
                return bool(http.InferenceServerClient(self.http).is_server_ready())
            return False

        try:
            wait_for(ready, "the server's start")
        except AssertionError:
            self.stop()
            raise
        return self

    def backends(self) -> list[int]:
        """Processes of the Python backend that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                content = path.read_text()
                state, parent = content.rpartition(")")[2].split()[:2]
                if int(parent) == self.process.pid and state != "Z" and "triton_python" in content:
                    found.append(int(path.parent.name))
        return found

    def stop(self) -> None:
        children = self.backends()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a server needs; skips where it is not to be had."""
    pytest.importorskip("tritonclient.http", reason="the clients of Triton are not installed (extra [triton])")
    pytest.importorskip("tritonclient.grpc", reason="the clients of Triton are not installed (extra [triton])")
    try:
        found = wheel.open_wheel(tmp_path_factory.mktemp("triton"))
    except EngineError as error:
        pytest.skip(str(error))
    return found._replace(variables=found.variables | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def start(environment: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server on a repository; it is ended after the module."""
    servers: list[Server] = []

    def begin(repository: Path, *options: str, ports: list[int] | None = None) -> Server:
        folder = tmp_path_factory.mktemp("server")
        server = Server(environment, repository, folder, wheel.free_ports() if ports is None else ports, *options)
        servers.append(server)
        return server.wait_until_ready()

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def memories(segmenter: Segmenter, shots: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two memories: `disc` and `other`."""
    folder = tmp_path_factory.mktemp("memories")
    for memory in segmenter.encode_supports({"disc": shots[:1], "other": shots[1:2]}):
        memory.save(folder / f"{memory.name}.safetensors")
    return folder


@pytest.fixture(scope="session")
def write(exported: Path, memories: Path) -> Callable[..., Path]:
    """Write the tiny bundle as the model `tiny` of a repository, on the CPU in one thread."""

    def written(
        repository: Path, *, bundle: Path = exported, force: bool = False, trusted: Any = (), **options: Any
    ) -> Path:
        chosen = {"name": "tiny", "engine": "onnx-cpu", "precision": "fp32", "threads": 1} | options
        sources = Sources(memories if bundle is exported and not trusted else None, trusted)
        write_repository(bundle, repository, Options(**chosen), sources, force=force)
        return repository

    return written


class Client:
    """Requests over HTTP or gRPC, as arrays."""

    def __init__(self, protocol: str, server: Server) -> None:
        self.protocol = protocol
        self._module: ModuleType = importlib.import_module(f"tritonclient.{protocol}")
        self._address = server.http if protocol == "http" else server.grpc
        self._own = threading.local()

    @property
    def raw(self) -> Any:
        """Triton's client; one for each thread, as that of HTTP stands on gevent."""
        if not hasattr(self._own, "client"):
            patient = {"network_timeout": PATIENCE, "connection_timeout": PATIENCE} if self.protocol == "http" else {}
            self._own.client = self._module.InferenceServerClient(self._address, **patient)
        return self._own.client

    def infer(self, model: str = "tiny", wanted: tuple[str, ...] = (), **arrays: np.ndarray) -> Arrays:
        """The outputs by name; all where none is asked for."""
        inputs = []
        for name, array in arrays.items():
            kind = "BYTES" if array.dtype == np.object_ else {"u": "UINT8", "f": "FP32", "i": "INT32"}[array.dtype.kind]
            one = self._module.InferInput(name, array.shape, kind)
            one.set_data_from_numpy(array)
            inputs.append(one)
        outputs = [self._module.InferRequestedOutput(name) for name in wanted] or None
        answer = self.raw.infer(model, inputs, outputs=outputs)
        return {name: answer.as_numpy(name) for name in wanted or ("labels", "scores", "names")}


@pytest.fixture(scope="session")
def client() -> Callable[[str, Server], Client]:
    return Client


@pytest.fixture(scope="session")
def strings() -> Callable[..., np.ndarray]:
    """Bytes or names as an array of one row."""

    def array(*values: bytes | str) -> np.ndarray:
        row = np.empty((1, len(values)), np.object_)
        row[0] = [value.encode() if isinstance(value, str) else value for value in values]
        return row

    return array


@pytest.fixture(scope="session")
def ports() -> Callable[[], list[int]]:
    ports: Callable[[], list[int]] = wheel.free_ports
    return ports


@pytest.fixture(scope="session")
def waiting() -> Callable[..., Any]:
    return wait_for

"""A real Triton on loopback: the server of nvidia-pytriton's wheel, with this project in its Python backend."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.repository import write_repository

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

    def __init__(
        self, environment: "Environment", repository: Path, folder: Path, ports: list[int], *options: str
    ) -> None:
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


class Environment:
    """What a server needs: the binary, the Python backend with the stub of this Python, and packages for it.

    Nothing in the installed wheel is changed.  The backend of the wheel reads arrays of NumPy 2 wrongly, so where this
    environment has it, the server gets one of its own: the same packages behind NumPy 1.
    """

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("pytriton")
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("nvidia-pytriton, whose wheel has the server, is not installed")
        wheel = Path(spec.submodule_search_locations[0]) / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not (wheel / "bin" / "tritonserver").is_file() or not stub.is_file():
            pytest.skip(f"nvidia-pytriton has no server for Python {version} on this machine")
        self.backends = folder / "backends"
        shutil.copytree(wheel / "backends" / "python", self.backends / "python")
        self.binary = Path(shutil.copy(wheel / "bin" / "tritonserver", folder / "tritonserver"))
        self.binary.chmod(0o755)
        Path(shutil.copy(stub, self.backends / "python" / stub.name)).chmod(0o755)
        home = folder / "venv"
        venv.create(home, with_pip=False)
        packages = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
        lines = [f"import site; site.addsitedir({path!r})" for path in self._own_packages()]
        Path(packages, "server.pth").write_text("\n".join([*self._numpy(), *lines]) + "\n")
        libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "OMP_NUM_THREADS": "1",
        }

    @staticmethod
    def _own_packages() -> list[str]:
        return list(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))

    @staticmethod
    def _numpy() -> list[str]:
        if int(np.__version__.partition(".")[0]) < 2:
            return []
        folder = Path(os.environ.get("NTRE_TRITON_NUMPY", Path(sys.prefix) / "numpy1"))
        if not (folder / "numpy").is_dir():
            pytest.skip(f"the server's Python backend needs NumPy 1 in {folder} (pip install --target it 'numpy<2')")
        return [str(folder)]


def free_ports() -> list[int]:
    """Three ports that nobody has: for HTTP, gRPC and metrics."""
    sockets = [socket.socket() for _ in range(3)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    pytest.importorskip("tritonclient.http", reason="the clients of Triton are not installed (extra [triton])")
    pytest.importorskip("tritonclient.grpc", reason="the clients of Triton are not installed (extra [triton])")
    return Environment(tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def start(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server on a repository; it is ended after the module."""
    servers: list[Server] = []

    def begin(repository: Path, *options: str, ports: list[int] | None = None) -> Server:
        folder = tmp_path_factory.mktemp("server")
        server = Server(environment, repository, folder, free_ports() if ports is None else ports, *options)
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
    return free_ports


@pytest.fixture(scope="session")
def waiting() -> Callable[..., Any]:
    return wait_for

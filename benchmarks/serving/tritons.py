"""Triton with this bundle, started from the wheel of nvidia-pytriton, which carries the server."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bodies import TARGET
from servers import Server, free_ports
from setting import MODEL, Setting

from ntre_deploy.errors import EngineError
from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.repository import write_repository

# folder with a NumPy 1 for the server's Python backend
NUMPY = "NTRE_TRITON_NUMPY"


@contextmanager
def triton(setting: Setting) -> Iterator[Server]:
    """Triton with the bundle and the memory `TARGET`, as many instances as the service has workers.

    Raises:
        EngineError: it is not installed, or cannot be started.
    """
    home = setting.folder / "triton"
    home.mkdir()
    binary, backends, environment = _environment(home)
    (home / "memories").mkdir()
    setting.memory.save(home / "memories" / f"{TARGET}.safetensors")
    http, grpc, metrics = free_ports(3)
    options = Options(
        name=MODEL,
        engine=setting.service.segmenter.engine.name,
        precision=setting.service.segmenter.engine.precision,
        threads=setting.threads,
        instances=setting.workers,
        queue=setting.wanted.queue,
        server=f"http://127.0.0.1:{http}",
    )
    write_repository(setting.wanted.bundle, home / "models", options, Sources(home / "memories"))
    command = [str(binary), f"--model-repository={home / 'models'}", f"--backend-directory={backends}"]
    for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics)):
        command += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    log = home / "triton.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--exit-timeout-secs=10"],
            env=environment,
            cwd=home,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log, f"http://127.0.0.1:{http}")
    try:
        server.wait(lambda: server.answers("/v2/health/ready"), "Triton's readiness")
        server.wait(lambda: server.answers(f"/v2/models/{MODEL}/ready"), "The model's readiness")
        yield server
    finally:
        server.stop()


def _environment(home: Path) -> tuple[Path, Path, dict[str, str]]:
    """The binary, the folder of backends and the variables; nothing in the installed wheel is changed."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("Triton is not installed: pip install --no-deps nvidia-pytriton.")
    wheel = Path(spec.submodule_search_locations[0]) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not (wheel / "bin" / "tritonserver").is_file() or not stub.is_file():
        raise EngineError(f"nvidia-pytriton has no server for Python {version} on this machine.")
    backends = home / "backends"
    shutil.copytree(wheel / "backends" / "python", backends / "python")
    binary = Path(shutil.copy(wheel / "bin" / "tritonserver", home / "tritonserver"))
    # the wheel's files may not be executed
    binary.chmod(0o755)
    Path(shutil.copy(stub, backends / "python" / stub.name)).chmod(0o755)
    own = home / "venv"
    venv.create(own, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(own), "platbase": str(own)}))
    folders = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    lines = [*_numpy(), *(f"import site; site.addsitedir({path!r})" for path in folders)]
    (packages / "server.pth").write_text("\n".join(lines) + "\n")
    libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return (
        binary,
        backends,
        kept
        | {
            "PATH": f"{own / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        },
    )


def _numpy() -> list[str]:
    """Where the backend's NumPy is found first: it reads arrays of NumPy 2 wrongly."""
    if int(np.__version__.partition(".")[0]) < 2:
        return []
    folder = Path(os.environ.get(NUMPY, Path(sys.prefix) / "numpy1"))
    if not (folder / "numpy").is_dir():
        raise EngineError(
            f"Triton's Python backend needs NumPy 1 in {folder}: pip install --target {folder} 'numpy<2'."
        )
    return [str(folder)]

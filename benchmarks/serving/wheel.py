"""The server in the wheel of nvidia-pytriton, made ready to run; for this benchmark and for the tests of Triton.

It imports nothing of its folder, so that a test can load it by its path.
"""

import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntre_deploy.errors import EngineError

# folder with a NumPy 1 for the server's Python backend
NUMPY = "NTRE_TRITON_NUMPY"


class Wheel(NamedTuple):
    """What a server needs.

    Attributes:
        binary: `tritonserver`.
        backends: folder of backends, with the stub of this Python.
        variables: its environment, in which its Python finds this one's packages.
    """

    binary: Path
    backends: Path
    variables: dict[str, str]


def open_wheel(home: Path) -> Wheel:
    """Copy what has to be executable into a folder; nothing in the installed wheel is changed.

    The backend of the wheel reads arrays of NumPy 2 wrongly, so where this environment has it, the server gets one of
    its own: the same packages behind NumPy 1.

    Raises:
        EngineError: the wheel is not installed, has no server for this Python, or there is no NumPy 1.
    """
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
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
        "PATH": f"{own / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
    return Wheel(binary, backends, variables)


def free_ports(count: int = 3) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now; three are for HTTP, gRPC and metrics."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


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

"""The sides that are processes: how they are built, started, asked and ended."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ntre_deploy.errors import EngineError

SOURCES = Path(__file__).parents[2] / "runtimes" / "cpp"
SIDE = Path(__file__).parent / "side.py"


class Side:
    """A started side.

    Attributes:
        load_ms: from the start of the process until everything is loaded, the self-test passed and one query done.
    """

    def __init__(self, command: list[str]) -> None:
        begun = time.perf_counter()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._line("ready")
        except BaseException:
            self.close()
            raise
        self.load_ms = 1e3 * (time.perf_counter() - begun)

    def ask(self, part: str, rest: object) -> Any:
        """What it answers to `PART REST`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{part} {rest}\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def memory_mb(self) -> dict[str, float]:
        """Resident memory, and what of it no file backs."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in status)
        return {name: int(values[key].split()[0]) / 1024 for name, key in (("all", "VmRSS"), ("anonymous", "RssAnon"))}

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self, wanted: str | None = None) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or (wanted is not None and line != wanted):
            raise EngineError(f"{Path(self._process.args[0]).name} ended; what it said stands above.")  # type: ignore[index]
        return line


def build(folder: Path) -> Path:
    """The C++ side, built in `folder` with the OpenVINO of this Python.

    Raises:
        EngineError: there is no OpenVINO, CMake or compiler, or it cannot be built.
    """
    try:
        import openvino
    except ImportError as error:
        raise EngineError("OpenVINO is not installed: pip install 'ntre_deploy[openvino]'.") from error
    if shutil.which("cmake") is None:
        raise EngineError("CMake is not installed (apt-get install cmake g++ nlohmann-json3-dev libssl-dev).")
    found = Path(openvino.__file__).parent / "cmake"
    options = [f"-DOpenVINO_DIR={found}", "-DNTRE_BENCH=ON", "-DNTRE_TOOLS=OFF"]
    for command in (
        ["cmake", "-S", str(SOURCES), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"The C++ side cannot be built: {(done.stderr or done.stdout).strip()[-500:]}")
    return folder / "bench" / "ntre-bench"


def command_of(name: str, program: Path, given: list[str]) -> list[str]:
    """How a side is started."""
    return [str(program), *given] if name == "cpp" else [sys.executable, "-P", str(SIDE), name, *given]

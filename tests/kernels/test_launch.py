"""The launcher and the driver behind it, where there is no GPU to hide a mistake."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.kernels.sources import PTX, ptx_name
from ntre_deploy.runtime.cuda import Arguments, Dim3
from ntre_deploy.runtime.letterbox import Letterbox


class Recorder:
    """A driver that only writes down what it is asked for."""

    def __init__(self) -> None:
        self.loaded: list[tuple[bytes, str]] = []
        self.launches: list[tuple[Any, Dim3, Dim3, list[Any], int]] = []

    def load_kernel(self, code: bytes, name: str) -> Any:
        self.loaded.append((code, name))
        return name

    def launch_kernel(self, function: Any, grid: Dim3, block: Dim3, arguments: Arguments, stream: int) -> None:
        self.launches.append((function, grid, block, [value.value for value in arguments], stream))


def test_a_device_that_is_too_old_is_refused() -> None:
    with pytest.raises(EngineError, match=r"7\.5 or later; this device has 7\.0"):
        Kernels(Recorder(), "7.0")


def test_a_kernel_is_loaded_once_and_launched_on_the_stream() -> None:
    driver = Recorder()
    kernels = Kernels(driver, "8.6")
    for _ in range(2):
        kernels.label_map(16, (1, 60, 60), Letterbox.fit(300, 500, 473), 64, half=True, stream=7)
    assert driver.loaded == [((PTX / ptx_name("labels", 75)).read_bytes(), "label_one_f16")]
    name, grid, block, values, stream = driver.launches[1]
    assert (name, grid, block, stream) == ("label_one_f16", (4, 19, 1), (128, 1, 1), 7)
    assert values == [16, 1, 60, 60, 473, 300, 500, 284, 473, 64]


def test_the_package_imports_without_cuda_python_torch_and_a_compiler() -> None:
    forbidden: Sequence[str] = ("cuda", "torch", "onnx", "cv2")
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import ntre_deploy.kernels.build, ntre_deploy.kernels.launch, ntre_deploy.kernels.reference
print("imported")
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr

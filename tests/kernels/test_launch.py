"""The launcher and the driver behind it, where there is no GPU to hide a mistake."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ntre_deploy.errors import EngineError
from ntre_deploy.kernels.launch import Kernels, PriorShape
from ntre_deploy.kernels.sources import PTX, ptx_name
from ntre_deploy.runtime.cuda import Arguments, Dim3


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


SHAPE = PriorShape(images=1, classes=1, shots=1, channels=2048, pixels=3600, keys=512, stride=512)


@pytest.mark.parametrize(("capability", "base"), [("7.5", 75), ("8.0", 80), ("8.7", 80), ("9.0", 80), ("12.1", 80)])
def test_the_code_is_chosen_by_the_device(capability: str, base: int) -> None:
    driver = Recorder()
    Kernels(driver, capability, 16).prior(16, 16, SHAPE, 16, 16, half=True)
    assert {code for code, _ in driver.loaded} == {(PTX / ptx_name("prior", base)).read_bytes()}


def test_a_device_that_is_too_old_is_refused() -> None:
    with pytest.raises(EngineError, match=r"7\.5 or later; this device has 7\.0"):
        Kernels(Recorder(), "7.0", 80)


def test_a_kernel_is_loaded_once_and_launched_on_the_stream() -> None:
    driver = Recorder()
    kernels = Kernels(driver, "8.6", 16)
    for _ in range(2):
        kernels.do_prototype(16, 32, 48, (1, 1, 256, 3600), 5e-4, 64, half=True, stream=7)
    assert [name for _, name in driver.loaded] == ["do_pool4_f16"]
    name, grid, block, values, stream = driver.launches[1]
    assert (name, grid, block, stream) == ("do_pool4_f16", (64, 1, 1), (256, 1, 1), 7)
    assert values == [16, 32, 48, 256, 1, 3600, 1, pytest.approx(5e-4), 64]


@pytest.mark.parametrize(("multiprocessors", "splits"), [(1, 1), (16, 1), (30, 2), (132, 4)])
def test_the_prior_fills_the_device(multiprocessors: int, splits: int) -> None:
    driver = Recorder()
    kernels = Kernels(driver, "9.0", multiprocessors)
    kernels.prior(16, 16, SHAPE, 16, 16, half=True)
    grids = [grid for _, grid, *_ in driver.launches]
    assert grids == [(116, 1, 1), (29, 1, splits), (1, 1, 1)]
    assert kernels.prior_workspace(SHAPE) == 2 * 2048 * 29 * 128 + 4 * splits * 3600


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

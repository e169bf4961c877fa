"""The runtime is what runs on the device: it needs NumPy, OpenCV, safetensors and an engine, and nothing else."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ntre_deploy.runtime

_FORBIDDEN = ("torch", "onnx", "onnxscript", "torchvision", "scipy", "pycocotools", "onnx_ir")

_BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_FORBIDDEN}:
            raise ImportError(name + " is not installed on the device")
sys.meta_path.insert(0, Block())
for name in {_FORBIDDEN}:
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(name + " could be imported: the test proves nothing")
"""

_RUN = """
import sys
import numpy as np
import ntre_deploy
segmenter = ntre_deploy.Segmenter.load(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
mask = np.zeros((50, 70), np.uint8)
mask[10:40, 20:60] = 1
memory = segmenter.encode_support([(image, mask)], "thing")
memory.save(sys.argv[2])
memory = ntre_deploy.SupportMemory.load(sys.argv[2])
print(segmenter.segment(image, [memory, memory]).shape)
"""

_LOADED = f"""
print(sorted(set(sys.modules) & set({_FORBIDDEN})))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_runtime_works_where_torch_and_onnx_are_not_installed(exported: Path, tmp_path: Path) -> None:
    assert python(_BLOCK + _RUN, str(exported), str(tmp_path / "m")) == "(50, 70)\n"


def test_the_runtime_does_not_load_torch_and_onnx_where_they_are(exported: Path, tmp_path: Path) -> None:
    assert python(_RUN + _LOADED, str(exported), str(tmp_path / "m")) == "(50, 70)\n[]\n"


def test_importing_the_package_loads_nothing_large() -> None:
    large = (*_FORBIDDEN, "numpy", "cv2", "onnxruntime", "PIL", "safetensors")
    code = f"import sys, ntre_deploy; print(sorted(set(sys.modules) & set({large})))"
    assert python(code) == "[]\n"


@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_every_module_of_the_runtime_imports_without(package: str) -> None:
    names = [m.name for m in pkgutil.walk_packages(ntre_deploy.runtime.__path__, "ntre_deploy.runtime.")]
    assert len(names) >= 9
    python(
        f"import sys; sys.modules[{package!r}] = None\nfrom importlib import import_module as i\nfor n in {names}: i(n)"
    )

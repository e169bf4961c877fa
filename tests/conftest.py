"""Fixtures that several folders use: the data folder beside the checkout, a tiny model and its bundle."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# the machines that run this are shared: an example that takes long says nothing about the code
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

REPOSITORY = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Trace each graph once in a run: tests, processes that they start and the workers of pytest-xdist share it."""
    if "NTRE_GRAPH_CACHE" not in os.environ:
        folder = tempfile.mkdtemp(prefix="ntre-graphs-")
        os.environ["NTRE_GRAPH_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos, weights and golden files; it is not part of the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow SqueezeNet NTRENet at 65 pixels with seeded random weights."""
    from ntre_deploy.model.checkpoint import save_checkpoint
    from ntre_deploy.model.config import NTRENetConfig
    from ntre_deploy.model.weights import import_weights

    config = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=65)
    model, origin = import_weights("random:3", config)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, model, origin)
    return path


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's bundle in fp32 and fp16; tests must not change it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("bundle") / "tiny.ntre"
    export_bundle(tiny_checkpoint, out, ExportOptions(precisions=("fp32", "fp16")))
    return out


@pytest.fixture(scope="session")
def conformance_kit(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conformance kit of the tiny bundle, for every runtime; tests must not change it."""
    from ntre_deploy.conformance.writing import write_kit

    out = tmp_path_factory.mktemp("conformance") / "kit"
    write_kit(exported, out)
    return out


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model that comes with the package, exported in fp32; tests must not change it."""
    from importlib.resources import as_file, files

    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("demo") / "demo.ntre"
    with as_file(files("ntre_deploy") / "assets" / "demo.safetensors") as checkpoint:
        export_bundle(checkpoint, out, ExportOptions())
    return out


@pytest.fixture(scope="session")
def exported_bf16(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's bundle in bf16; tests must not change it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("bundle") / "bf16.ntre"
    export_bundle(tiny_checkpoint, out, ExportOptions(precisions=("bf16",)))
    return out


@pytest.fixture(scope="session")
def for_fp8(exported: Path) -> dict[str, bytes]:
    """The tiny model's fp16 files by role, in the opset that fp8 needs: none of its operators has changed with it."""
    import onnx

    contents = {}
    for role in ("support", "query"):
        model = onnx.load_model(exported / f"{role}.fp16.onnx")
        model.opset_import[0].version = 19
        onnx.checker.check_model(model, full_check=True)
        contents[role] = model.SerializeToString()
    return contents


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA kernels as a library for the CPU, built once per session; skips where there is no C++ compiler."""
    from ntre_deploy.kernels.sources import SOURCES

    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels cannot be run on the CPU")
    folder = REPOSITORY / "tests" / "kernels" / "emulator"
    library = tmp_path_factory.mktemp("emulator") / "kernels.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-w"]
    command = [compiler, *flags, "-shared", "-fPIC", f"-I{folder}", f"-I{SOURCES}", "-include", "emulator.hpp"]
    command += [str(folder / "emulator.cpp"), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "tiny.ntre"))

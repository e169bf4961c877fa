"""Fixtures that several folders use: the data folder beside the checkout, a tiny model and its bundle."""

import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# the machines that run this are shared: an example that takes long says nothing about the code
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

REPOSITORY = Path(__file__).parents[1]


_BEGAN = pytest.StashKey[float]()
# days for which a graph is kept for later runs
_KEPT = 14


def pytest_configure(config: pytest.Config) -> None:
    """Trace each graph once: tests, processes that they start, the workers of pytest-xdist and later runs share it.

    `pytest --cache-clear` traces all of them anew.
    """
    if "NTRE_GRAPH_CACHE" in os.environ:
        return
    if config.pluginmanager.has_plugin("cacheprovider"):
        assert config.cache is not None
        folder = config.cache.mkdir("graphs")
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - _KEPT * 24 * 3600:
                path.unlink(missing_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="ntre-graphs-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["NTRE_GRAPH_CACHE"] = str(folder)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", type=int, metavar="N", help="show the N files that took most CPU seconds")


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for: unlike the clock's, other work leaves them alone."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[_BEGAN] = _cpu()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        if item.config.getoption("cpu_seconds"):
            # what is told with a test comes from the workers of pytest-xdist too
            item.user_properties.append(("cpu_seconds", _cpu() - item.stash[_BEGAN]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    files: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "when", "") == "teardown":
            files[report.nodeid.partition("::")[0]] += dict(report.user_properties).get("cpu_seconds", 0)
    if most := config.getoption("cpu_seconds"):
        terminalreporter.section(f"CPU seconds: {files.total():.0f}")
        for name, seconds in files.most_common(most):
            terminalreporter.write_line(f"{seconds:8.1f}  {name}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos, weights and golden files; it is not part of the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    return folder


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run alone, which the workers of pytest-xdist share."""
    # theirs lie in that of the run
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(run_folder: Path) -> Once:
    """Fill a folder of that name once in a run: one worker of pytest-xdist makes it, and the others wait for it.

    What is in it is for all of them, so that tests must not change it.
    """

    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        folder = run_folder / f"once-{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                # one that failed half-way is of no use to another worker
                unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=run_folder))
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return filled


@pytest.fixture(scope="session")
def tiny_checkpoint(once: Once) -> Path:
    """A narrow SqueezeNet NTRENet at 65 pixels with seeded random weights."""
    from ntre_deploy.model.checkpoint import save_checkpoint
    from ntre_deploy.model.config import NTRENetConfig
    from ntre_deploy.model.weights import import_weights

    config = NTRENetConfig(backbone="squeezenet1_1", width=16, bg_channels=8, bins=(9, 4, 2), input_size=65)

    def fill(folder: Path) -> None:
        model, origin = import_weights("random:3", config)
        save_checkpoint(folder / "tiny.safetensors", model, origin)

    return once("checkpoint", fill) / "tiny.safetensors"


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Path, once: Once) -> Path:
    """The tiny model's bundle in fp32 and fp16; tests must not change it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        export_bundle(tiny_checkpoint, folder / "tiny.ntre", ExportOptions(precisions=("fp32", "fp16")))

    return once("tiny", fill) / "tiny.ntre"


@pytest.fixture(scope="session")
def conformance_kit(exported: Path, once: Once) -> Path:
    """The conformance kit of the tiny bundle, for every runtime; tests must not change it."""
    from ntre_deploy.conformance.writing import write_kit

    return once("conformance", lambda folder: write_kit(exported, folder / "kit")) / "kit"


@pytest.fixture(scope="session")
def demo_bundle(once: Once) -> Path:
    """The trained model that comes with the package, exported in fp32; tests must not change it."""
    from importlib.resources import as_file, files

    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        with as_file(files("ntre_deploy") / "assets" / "demo.safetensors") as checkpoint:
            export_bundle(checkpoint, folder / "demo.ntre", ExportOptions())

    return once("demo", fill) / "demo.ntre"


@pytest.fixture(scope="session")
def exported_bf16(tiny_checkpoint: Path, once: Once) -> Path:
    """The tiny model's bundle in bf16; tests must not change it."""
    from ntre_deploy.export.bundle import ExportOptions, export_bundle

    def fill(folder: Path) -> None:
        export_bundle(tiny_checkpoint, folder / "bf16.ntre", ExportOptions(precisions=("bf16",)))

    return once("bf16", fill) / "bf16.ntre"


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
def emulator(once: Once) -> Path:
    """The CUDA kernels as a library for the CPU; skips where there is no C++ compiler."""
    from ntre_deploy.kernels.sources import SOURCES

    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels cannot be run on the CPU")
    sources = REPOSITORY / "tests" / "kernels" / "emulator"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-w"]
    command = [compiler, *flags, "-shared", "-fPIC", f"-I{sources}", f"-I{SOURCES}", "-include", "emulator.hpp"]

    def fill(folder: Path) -> None:
        build = [*command, str(sources / "emulator.cpp"), "-o", str(folder / "kernels.so")]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return once("emulator", fill) / "kernels.so"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "tiny.ntre"))

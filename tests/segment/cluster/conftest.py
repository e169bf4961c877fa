"""A cluster of several nodes on this machine, and photos, for the tests of `ntre segment --ray`."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntre_deploy.data.procedural import render_scene

Done = subprocess.CompletedProcess[str]

HERE = "127.0.0.1"
# machines that run this are busy
PATIENCE = 240.0
_KINDS = 6


def _environment() -> dict[str, str]:
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "OMP_NUM_THREADS": "1"}
    # else Ray takes 127.0.0.1 for another word for the machine's address in the network, where nothing listens
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | quiet | loopback


def arguments(bundle: Path, *more: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name("ntre")), "segment", str(bundle), *map(str, more)]


@pytest.fixture
def environment() -> dict[str, str]:
    """Of processes that use the cluster."""
    return _environment()


@pytest.fixture(scope="session")
def memory(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved class, which needs no encoding."""
    from ntre_deploy.runtime.segmenter import Segmenter

    scene = render_scene(0, seed=5)
    segmenter = Segmenter.load(exported, "onnx-cpu", threads=1)
    path = tmp_path_factory.mktemp("memory") / "thing.safetensors"
    segmenter.encode_support([(scene.image, scene.labels == scene.target + 1)], "thing").save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], list[Path]]:
    """Write so many photos into a folder."""
    contents = []
    for index in range(_KINDS):
        file = io.BytesIO()
        image = Image.fromarray(render_scene(index, seed=5).image).resize((320, 240))
        image.save(file, "JPEG", quality=92)
        contents.append(file.getvalue())

    def write(folder: Path, number: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"photo {index:04d}.jpg" for index in range(number)]
        for index, path in enumerate(paths):
            path.write_bytes(contents[index % _KINDS])
        return paths

    return write


@pytest.fixture(scope="module")
def objects() -> Iterator[str | None]:
    """The address of an object store that speaks S3; None where moto is not installed.

    Processes that are started find it in their environment.
    """
    if any(find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
        yield None
        return
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    told = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}
    told |= {"AWS_ENDPOINT_URL": f"http://{HERE}:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", HERE, "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for key, value in told.items():
                patch.setenv(key, value)
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    bucket = urllib.request.Request(f"http://{HERE}:{port}/photos", method="PUT")
                    urllib.request.urlopen(bucket, timeout=PATIENCE).close()
                    break
                except OSError:
                    assert time.monotonic() < end
                    assert server.poll() is None
                    time.sleep(0.1)
            yield "s3://photos"
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="module")
def cluster(objects: str | None) -> Iterator[Any]:
    """A node without processors, where drivers are, and two workers; `cluster.more()` adds one."""
    pytest.importorskip("ray", reason="Ray is not installed")
    os.environ.update(_environment())
    import ray
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "node_ip_address": HERE, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args=common | {"num_cpus": 0})
    made.more = lambda: made.add_node(num_cpus=1, **{k: v for k, v in common.items() if k != "include_dashboard"})
    try:
        made.nodes = [made.more(), made.more()]
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def begin(exported: Path, memory: Path, cluster: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begin `ntre segment --ray` on the cluster."""
    begun = []

    def inner(*more: str | Path) -> subprocess.Popen[str]:
        command = arguments(exported, "--memory", memory, "--ray", cluster.address, *more)
        process = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )
        begun.append(process)
        return process

    yield inner
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def finish(begin: Callable[..., subprocess.Popen[str]]) -> Callable[..., Done]:
    """The same, to its end."""

    def inner(*more: str | Path) -> Done:
        process = begin(*more)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return inner


@pytest.fixture(scope="session")
def parts() -> Callable[[Path], dict[str, int]]:
    """Files of results that are there, with the times of their last change."""

    def inner(out: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (out / "results").glob("part-*.parquet")}

    return inner


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], object]], None]:
    """Wait until something is so."""

    def inner(so: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not so():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    return inner


@pytest.fixture(scope="session")
def check(exported: Path, memory: Path) -> Callable[..., list[dict[str, Any]]]:
    """See that there is one row and one mask of each photo, and that they are what the runtime makes of it."""
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.support import SupportMemory

    segmenter = Segmenter.load(exported, "onnx-cpu", threads=1)
    loaded = SupportMemory.load(memory)
    known: dict[bytes, Any] = {}

    def expected(path: Path) -> Any:
        content = path.read_bytes()
        if content not in known:
            known[content] = segmenter.segment_result(path, loaded)
        return known[content]

    def inner(out: Path, paths: list[Path], failing: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
        from pyarrow import dataset

        rows: list[dict[str, Any]] = dataset.dataset(out / "results").to_table().to_pylist()
        assert sorted(row["path"] for row in rows) == sorted(map(str, paths))
        masks = {str(path.relative_to(out)) for path in (out / "masks").rglob("*") if path.is_file()}
        assert sorted(masks) == sorted(row["mask"] for row in rows if row["mask"] is not None)
        assert {row["path"] for row in rows if row["error"] is not None} == set(map(str, failing))
        for row in rows:
            if row["error"] is None:
                result = expected(Path(row["path"]))
                labels = np.asarray(Image.open(out / row["mask"]))
                assert np.array_equal(labels, result.labels)
                assert (row["height"], row["width"]) == result.size
                assert (row["counts"], row["areas"]) == ([result.rle(1)["counts"]], list(result.areas))
                assert row["scores"] == pytest.approx(result.scores, abs=1e-6)
        return rows

    return inner

"""Ray Serve on this machine, and what the tests of its application ask it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = "127.0.0.1"
# machines that run this are busy
PATIENCE = 240.0
EXAMPLE = Path(__file__).parents[3] / "examples" / "ray" / "serve.yaml"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # else Ray takes 127.0.0.1 for another word for the machine's address in the network
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "OMP_NUM_THREADS": "1",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HERE, 0))
        return int(free.getsockname()[1])


def _wait_for(so: Callable[[], Any]) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := so()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def ray_serve(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The example's configuration with the tiny bundle: `url`, `config` to be changed, and `deploy(config)`."""
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    yaml = pytest.importorskip("yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for key, value in _QUIET.items():
            patch.setenv(key, value)
        import ray
        from ray import serve

        folder, port = tmp_path_factory.mktemp("serve"), free_port()
        told = ray.init(
            "local",
            num_cpus=4,
            include_dashboard=True,
            dashboard_host=HERE,
            dashboard_port=free_port(),
            object_store_memory=80 << 20,
            log_to_driver=False,
            _node_ip_address=HERE,
        )
        text = EXAMPLE.read_text().replace("/models/photos.ntre", str(exported)).replace("/models", str(folder))
        config = yaml.safe_load(text)
        config["http_options"]["port"] = port
        deployment = config["applications"][0]["deployments"][0]
        deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 0.1}

        def deploy(config: dict[str, Any]) -> None:
            path = folder / "serve.yaml"
            path.write_text(yaml.safe_dump(config))
            command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(path)]
            address = ["-a", f"http://{told.dashboard_url}"]
            subprocess.run([*command, *address], check=True, timeout=PATIENCE, env=os.environ, capture_output=True)

        def running() -> bool:
            app = serve.status().applications.get("ntre")
            assert app is None or app.status not in ("DEPLOY_FAILED",), app.message
            return app is not None and app.status == "RUNNING"

        def deployed() -> float:
            return float(serve.status().applications["ntre"].last_deployed_time_s)

        try:
            deploy(config)
            _wait_for(running)
            url = f"http://{HERE}:{port}"
            yield SimpleNamespace(
                url=url, config=config, deployment=deployment, deploy=deploy, deployed=deployed, running=running
            )
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something is so, and return it."""
    return _wait_for


Answer = tuple[int, bytes]


@pytest.fixture(scope="module")
def ask(ray_serve: SimpleNamespace) -> Callable[..., Answer]:
    """A request to the application: status and body."""

    def inner(path: str, method: str = "GET", body: bytes | None = None, kind: str = "") -> Answer:
        headers = {"content-type": kind} if kind else {}
        request = urllib.request.Request(ray_serve.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return inner


@pytest.fixture(scope="session")
def form() -> Callable[..., tuple[bytes, str]]:
    """A form with files and texts, and its content type."""

    def inner(**parts: bytes | str) -> tuple[bytes, str]:
        pieces = []
        for name, content in parts.items():
            file = '; filename="x.png"' if isinstance(content, bytes) else ""
            data = content if isinstance(content, bytes) else content.encode()
            head = f'--edge\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'
            pieces.append(head.encode() + data + b"\r\n")
        return b"".join(pieces) + b"--edge--\r\n", "multipart/form-data; boundary=edge"

    return inner

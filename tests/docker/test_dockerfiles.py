"""The Dockerfiles: their steps run as a script, and what they install serves the tiny bundle until it is to end."""

import fnmatch
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from tests.docker.steps import Image, read

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
PATIENCE = 600


def built(dockerfile: Path, home: Path) -> tuple[Image, dict[str, str]]:
    """Run the steps; the image and the environment in which its program starts."""
    image = read(dockerfile, REPOSITORY, home)
    done = subprocess.run(["bash"], input=image.script, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{image.script}\n{done.stderr}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NTRE_", "PYTHON", "VIRTUAL_ENV"))}
    for name, value in image.environment:
        for known, content in environment.items():
            value = value.replace(f"${{{known}}}", content)
        environment[name] = value
    return image, environment


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_is_sent_to_the_daemon(dockerfile: Path, tmp_path: Path) -> None:
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    image = read(dockerfile, REPOSITORY, tmp_path)
    assert image.copied
    for source in image.copied:
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    # no root, a program that a signal reaches (no shell before it), and a bundle that is mounted
    assert image.user == "10001:10001"
    assert image.start[0][:2] == ["ntre", "serve"]
    assert image.start[1][-1] == "/bundles/model.ntre"


@pytest.mark.slow
def test_the_steps_for_a_cpu_make_a_server(exported: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    image, environment = built(REPOSITORY / "docker" / "cpu.Dockerfile", home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment["NTRE_PORT"] = str(port)
    command = [*image.start[0], "--host", "127.0.0.1", "--port", str(port), str(exported)]
    command[0] = str(home / "venv" / "bin" / command[0])
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while subprocess.run(
            ["bash", "-c", image.health], env=environment, capture_output=True, check=False
        ).returncode:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/v2/models")
        connection.getresponse().read()
        pixels = np.zeros((40, 50, 3), np.uint8)
        body = json.dumps(
            {
                "inputs": [
                    {"name": "image", "datatype": "UINT8", "shape": [40, 50, 3], "data": pixels.ravel().tolist()},
                    {"name": "memories", "datatype": "BYTES", "shape": [1], "data": ["fork"]},
                ]
            }
        )
        connection.request("POST", f"/v2/models/{exported.stem}/infer", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 404, text
        assert "There is no memory 'fork'" in text
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        log.close()


@pytest.mark.slow
def test_the_steps_for_nvidia_run_up_to_the_gpu(exported: Path, tmp_path: Path) -> None:
    _, environment = built(REPOSITORY / "docker" / "nvidia.Dockerfile", tmp_path / "home")
    ntre = tmp_path / "home" / "venv" / "bin" / "ntre"
    done = subprocess.run(
        [str(ntre), "serve", "--engine", "trt", str(exported)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    # the image that it is made for brings TensorRT; here, one line says what is missing
    assert done.returncode == 3, done.stderr
    assert "trt: the bundle holds no trt files" in done.stderr
    assert "Traceback" not in done.stderr

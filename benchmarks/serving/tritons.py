"""Triton with this bundle, started from the wheel of nvidia-pytriton, which carries the server."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from bodies import TARGET
from servers import Server
from setting import MODEL, Setting
from wheel import free_ports, open_wheel

from ntre_deploy.serving.triton.options import Options, Sources
from ntre_deploy.serving.triton.repository import write_repository


@contextmanager
def triton(setting: Setting) -> Iterator[Server]:
    """Triton with the bundle and the memory `TARGET`, as many instances as the service has workers.

    Raises:
        EngineError: it is not installed, or cannot be started.
    """
    home = setting.folder / "triton"
    home.mkdir()
    wheel = open_wheel(home)
    (home / "memories").mkdir()
    setting.memory.save(home / "memories" / f"{TARGET}.safetensors")
    http, grpc, metrics = free_ports()
    options = Options(
        name=MODEL,
        engine=setting.service.segmenter.engine.name,
        precision=setting.service.segmenter.engine.precision,
        threads=setting.threads,
        instances=setting.workers,
        queue=setting.wanted.queue,
        server=f"http://127.0.0.1:{http}",
    )
    write_repository(setting.wanted.bundle, home / "models", options, Sources(home / "memories"))
    command = [str(wheel.binary), f"--model-repository={home / 'models'}", f"--backend-directory={wheel.backends}"]
    for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics)):
        command += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    log = home / "triton.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--exit-timeout-secs=10"],
            env=wheel.variables,
            cwd=home,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, log, f"http://127.0.0.1:{http}")
    try:
        server.wait(lambda: server.answers("/v2/health/ready"), "Triton's readiness")
        server.wait(lambda: server.answers(f"/v2/models/{MODEL}/ready"), "The model's readiness")
        yield server
    finally:
        server.stop()

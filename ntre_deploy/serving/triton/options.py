"""What a user may choose of a model in a Triton repository."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ntre_deploy.errors import InputError, one_of
from ntre_deploy.runtime.engines import ENGINE_NAMES, runs_on_gpu

# a model's name is that of its folder, and part of an address
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_RESOURCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# images of one query, where the engine gains by several; see `Service`
_GPU_BATCH = 4
_GPU_DELAY = 500
# a batch is at most so large: its label maps lie in memory together
MAX_BATCH = 64
SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Options:
    """How a bundle is served by Triton.

    Attributes:
        name: of the model; None takes the bundle's.
        version: number of its folder, which is that of the version; others of the model stay.
        keep: so many of the newest versions are served.
        engine, precision, threads: see `Segmenter.load`; `threads` None divides the processors among the instances.
        instances: engines, each in a process of its own; on each GPU where `gpus` names some.
        gpus: numbers of the GPUs to run on; none leaves it to the engine's kind.
        max_batch: images of one batch; None takes 4, and 1 for engines of the CPU, which gain nothing by more.
        preferred: sizes of batches that are formed first.
        delay: microseconds for which a batch waits to become larger; None takes 500, and 0 where batches are of 1.
        queue: requests that wait; more are refused at once.
        timeout: milliseconds after which a request that still waits is refused; clients may ask for less.
        resources: of Triton's rate limiter, name and count that an instance takes while it runs.
        priority: of the rate limiter, 1 (highest) on; None leaves it out.
        warmup: run a real episode through each instance before it is called ready.
        server: address of the server's HTTP, by which an instance that was killed is loaded anew; empty for none.

    Raises:
        InputError: a value outside its range.
    """

    name: str | None = None
    version: int = 1
    keep: int = 1
    engine: str = "auto"
    precision: str | None = None
    threads: int | None = None
    instances: int = 1
    gpus: tuple[int, ...] = ()
    max_batch: int | None = None
    preferred: tuple[int, ...] = ()
    delay: int | None = None
    queue: int = 64
    timeout: int = 30_000
    resources: tuple[tuple[str, int], ...] = ()
    priority: int | None = None
    warmup: bool = True
    server: str = SERVER

    def __post_init__(self) -> None:
        one_of(self.engine, ("auto", "onnx", *ENGINE_NAMES), "Engine")
        if self.name is not None:
            check_name(self.name)
        for what, least in (("version", 1), ("keep", 1), ("instances", 1), ("queue", 1), ("timeout", 1)):
            if getattr(self, what) < least:
                raise InputError(f"--{what} is {getattr(self, what)}; at least {least} is needed.")
        if self.max_batch is not None and not 1 <= self.max_batch <= MAX_BATCH:
            raise InputError(f"--max-batch is {self.max_batch}; it goes from 1 to {MAX_BATCH}.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads is {self.threads}; at least 1 is needed.")
        if self.delay is not None and self.delay < 0:
            raise InputError(f"--delay is {self.delay}; microseconds from 0 on are expected.")
        if wrong := [size for size in self.preferred if not 1 <= size <= self.batch]:
            raise InputError(
                f"--preferred {wrong[0]} is no size of a batch; it goes from 1 to --max-batch {self.batch}."
            )
        if len(set(self.gpus)) < len(self.gpus) or any(gpu < 0 for gpu in self.gpus):
            raise InputError(f"--gpus {','.join(map(str, self.gpus))}: different numbers from 0 on are expected.")
        if self.gpus and self.on_cpu:
            raise InputError(f"--gpus is for engines on GPUs, and {self.engine} runs on the CPU; leave one out.")
        for name, count in self.resources:
            if not _RESOURCE.fullmatch(name) or count < 1:
                raise InputError(f"--resource {name}={count}: a plain name and a count from 1 on are expected.")
        if self.priority is not None and self.priority < 1:
            raise InputError(f"--priority is {self.priority}; it goes from 1, the highest, on.")
        if self.server:
            address = urlsplit(self.server)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise InputError(f"--server {self.server} is no address such as {SERVER}.")

    @property
    def on_cpu(self) -> bool:
        """Whether the engine that was named runs on the CPU."""
        return self.engine in ENGINE_NAMES and not runs_on_gpu(self.engine)

    @property
    def batch(self) -> int:
        """Images of one batch."""
        return self.max_batch or (1 if self.on_cpu else _GPU_BATCH)

    @property
    def kind(self) -> str:
        """Triton's kind of the instances."""
        if self.gpus or (self.engine in ENGINE_NAMES and runs_on_gpu(self.engine)):
            return "KIND_GPU"
        return "KIND_CPU" if self.on_cpu else "KIND_AUTO"

    @property
    def wait(self) -> int:
        """Microseconds for which a batch waits to become larger."""
        if self.delay is not None:
            return self.delay
        return _GPU_DELAY if self.batch > 1 else 0


@dataclass(frozen=True)
class Sources:
    """Where the files of a model come from.

    Attributes:
        memories: folder of support memories that requests can name.
        trusted: public keys, by one of which the bundle must be signed, here and whenever it is loaded.
        link: give the bundle's files a second name rather than copy them.
    """

    memories: Path | None = None
    trusted: tuple[Path, ...] = ()
    link: bool = False


def check_name(name: str) -> str:
    """The name, where a model of Triton can have it.

    Raises:
        InputError: it is empty, too long, or has other characters than letters, digits and `_.-`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:120]!r} cannot name a model; 1 to 100 letters, digits and _ . - can: pass --name.")
    return name

"""Load time and peak memory of one system, each in a new process: in a shared one, nobody could tell whose they are.

`python -m ntre_deploy.bench.footprint JSON` is that process; `footprint` starts it.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.processes import module_command

# seconds until a process that gives no answer is ended; loading a large engine takes minutes at worst
_PATIENCE = 600.0
_QUERIES = 2


@dataclass(frozen=True)
class Order:
    """What the process opens and runs.

    Attributes:
        engine: name of an engine, or of one of PyTorch's variants.
        checkpoint: for PyTorch.
        shots: supports of each class that it encodes.
        ways: number of classes.
        trusted: files of the keys by one of which the bundle must be signed; none demands nothing.
    """

    bundle: str
    engine: str
    precision: str
    threads: int
    shots: int
    checkpoint: str = ""
    ways: int = 1
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Footprint:
    """What a system costs before its first image, and in memory.

    Attributes:
        load_ms: importing its library, checking the bundle's hashes and opening the graphs.
        support_ms: encoding the first supports.
        first_query_ms: the first image, from image to label map.
        peak_bytes: largest resident memory of the process; None where the system does not tell.
        base_bytes: of it, Python with NumPy and OpenCV before anything was opened.
        device_bytes: growth of the memory in use on NVIDIA GPUs; None without one.
    """

    load_ms: float
    support_ms: float
    first_query_ms: float
    peak_bytes: int | None
    base_bytes: int | None
    device_bytes: int | None


def footprint(order: Order) -> Footprint | str:
    """Run an order in a new process; a text says why there is no result."""
    command = module_command("ntre_deploy.bench.footprint", json.dumps(asdict(order)))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer after {_PATIENCE:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _work(order: Order) -> Footprint:
    import numpy as np

    from ntre_deploy.bench.machine import device_bytes, process_bytes
    from ntre_deploy.runtime.bundle import Bundle
    from ntre_deploy.runtime.labels import label_map
    from ntre_deploy.runtime.letterbox import prepare_image

    base, device = process_bytes("VmRSS"), device_bytes()
    began = time.perf_counter()
    bundle = Bundle.open(order.bundle, trusted=order.trusted or None)
    size = bundle.manifest.input.size
    system = _open(bundle, order)
    loaded = time.perf_counter()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size * 3 // 4, size, 3), dtype=np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 1
    shots = [(image, mask)] * order.shots
    ready = time.perf_counter()
    state = system.prepare(shots) if order.ways == 1 else system.prepare_ways([shots] * order.ways, False).state
    encoded = time.perf_counter()
    first = 0.0
    for number in range(_QUERIES):
        start = time.perf_counter()
        pixels, box = prepare_image(image, bundle.manifest.input)
        label_map(system.compute(pixels, state), box)
        if number == 0:
            first = time.perf_counter() - start
    after = device_bytes()
    return Footprint(
        load_ms=1e3 * (loaded - began),
        support_ms=1e3 * (encoded - ready),
        first_query_ms=1e3 * first,
        peak_bytes=process_bytes("VmHWM"),
        base_bytes=base,
        device_bytes=None if device is None or after is None else max(0, after - device),
    )


def _open(bundle: Any, order: Order) -> Any:
    from ntre_deploy.bench.pytorch import Network, is_pytorch, variant_of

    if is_pytorch(order.engine):
        network = Network(bundle, Path(order.checkpoint), order.threads)
        return network.system(variant_of(order.engine, order.precision))
    from ntre_deploy.bench.systems import ON_DEVICE, Cached, open_on_device
    from ntre_deploy.runtime.engines import open_engine
    from ntre_deploy.runtime.segmenter import Segmenter

    if order.engine.endswith(ON_DEVICE):
        return open_on_device(bundle, order.engine, order.precision, order.threads)
    engine = open_engine(bundle, order.engine, order.precision, order.threads).engine
    return Cached(Segmenter(engine, bundle.manifest.input, bundle.manifest.model), order.engine, order.precision)


if __name__ == "__main__":
    print(json.dumps(asdict(_work(Order(**json.loads(sys.argv[1]))))))

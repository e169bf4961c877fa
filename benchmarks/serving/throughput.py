"""Photos a second: the bench's own measure, the service in this process, and the server with clients, in turn."""

import resource
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bodies import TARGET, shots
from load import drive
from setting import Setting

from ntre_deploy.bench.systems import Cached, open_engines
from ntre_deploy.bench.throughput import measure_throughput
from ntre_deploy.errors import EngineError, GateError
from ntre_deploy.runtime.imagefile import decode_image
from ntre_deploy.serving.supports import Named

# of the bench's rate
ALLOWED = 0.9
SIDES = ("bench", "in_process", "http")


def measure(
    setting: Setting, clients: int, rounds: int, seconds: float, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Rates of all sides in each round, and the processor time that a photo takes.

    The bench begins with pixels; the service with the JPEG; the server with a request, whose clients run on the same
    processors.

    Raises:
        GateError: an answer was an error.
    """
    system = _system(setting)
    pixels = decode_image(setting.photo)

    def bench() -> tuple[float, float]:
        begun = _own_seconds()
        classes = [shots(setting.wanted.seed)]
        ((rate,),) = measure_throughput([system], classes, [pixels], [setting.workers], seconds=seconds, rounds=1)
        # the support and each thread's first photo are in it, so that a photo takes a little less than this
        return rate.median, (_own_seconds() - begun) / max(1.0, rate.median * seconds + setting.workers)

    def in_process() -> tuple[float, float]:
        begun = _own_seconds()
        count, took = _closed_loop(setting, clients, seconds)
        return count / took, (_own_seconds() - begun) / count

    generator: list[float] = []

    def http() -> tuple[float, float]:
        begun, spent = setting.server.cpu_seconds(), _child_seconds()
        load = drive(setting.server.address, setting.body, setting.folder, clients=clients, seconds=seconds)
        if set(load.statuses) != {"200"}:
            raise GateError(f"The server answered with {load.statuses or 'nothing'}; 200 alone is expected.")
        generator.append((_child_seconds() - spent) / len(load.rows))
        return load.rate(), (setting.server.cpu_seconds() - begun) / len(load.rows)

    sides = {"bench": bench, "in_process": in_process, "http": http}
    rows: list[dict[str, tuple[float, float]]] = []
    for turn in range(rounds + 1):
        row = {}
        for step in range(len(SIDES)):
            name = SIDES[(turn + step) % len(SIDES)]
            row[name] = sides[name]()
            advance()
        # the first one warms up
        if turn:
            rows.append(row)
    return {"clients": clients, "seconds_each": seconds, **summary(rows), "client_cpu_ms": 1e3 * median(generator)}


def summary(rows: list[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """Medians of the sides, and of their rates' ratios to the bench's in the same round."""
    found: dict[str, Any] = {}
    for name in SIDES:
        ratios = [row[name][0] / row["bench"][0] for row in rows]
        found[name] = {
            "a_second": median(row[name][0] for row in rows),
            "ratio": median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "cpu_ms_a_photo": 1e3 * median(row[name][1] for row in rows),
        }
    ratio = found["http"]["ratio"]
    found["http"] |= {"allowed": ALLOWED, "passed": ratio >= ALLOWED}
    return {"sides": found, "rounds": [{name: row[name][0] for name in SIDES} for row in rows]}


def _system(setting: Setting) -> Cached:
    wanted = [(setting.wanted.engine, setting.wanted.precision)]
    systems, _ = open_engines(setting.opened, setting.threads, wanted)
    for system in systems:
        if isinstance(system, Cached):
            return system
    raise EngineError(f"{setting.wanted.engine} cannot be measured.")


def _closed_loop(setting: Setting, clients: int, seconds: float) -> tuple[int, float]:
    """Photos done and seconds taken by threads that ask the service of this process again and again."""
    done: list[int] = []
    failed: list[BaseException] = []
    start = time.perf_counter()

    def work() -> None:
        count = 0
        try:
            while count == 0 or time.perf_counter() < start + seconds:
                setting.service.segment(setting.photo, [Named(TARGET)])
                count += 1
        # raised again below, in the caller's thread
        except BaseException as error:
            failed.append(error)
        done.append(count)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(done), time.perf_counter() - start


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

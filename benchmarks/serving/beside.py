"""Triton and `ntre serve` side by side: the same bundle, workers, threads and requests, in turn."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bodies import Body, v2_body
from load import drive, quantile
from servers import Client, Server
from setting import MODEL, Setting, check_same

from ntre_deploy.errors import GateError
from ntre_deploy.runtime.imagefile import decode_image

_WARM_UP = 3
# Triton's name of the input of a file's bytes
_FILE = "image_bytes"


def measure(
    setting: Setting,
    triton: Server,
    count: int,
    clients: int,
    rounds: int,
    seconds: float,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """In each round `count` requests of one client to each, by turns, and then the load of `clients` on each.

    For the JPEG's bytes, whose input has another name with Triton, and for its pixels, the same body to the byte.

    Raises:
        GateError: a label map differs, or an answer was an error.
    """
    servers = {"serve": setting.server, "triton": triton}
    pixels = v2_body(MODEL, decode_image(setting.photo))
    bodies = {
        "jpeg": {"serve": setting.body, "triton": v2_body(MODEL, setting.photo, _FILE)},
        "pixels": dict.fromkeys(servers, pixels),
    }
    for own in bodies.values():
        for name, server in servers.items():
            check_same(server, own[name], setting.labels)
    found: dict[str, Any] = {}
    for kind, own in bodies.items():
        rows: list[dict[str, dict[str, Any]]] = []
        for turn in range(rounds):
            latencies = _by_turns(servers, own, count, turn)
            row = {}
            for name in list(servers)[:: 1 if turn % 2 else -1]:
                begun = servers[name].cpu_seconds()
                load = drive(servers[name].address, own[name], setting.folder, clients=clients, seconds=seconds)
                if set(load.statuses) != {"200"}:
                    raise GateError(f"{name} answered with {load.statuses or 'nothing'}; 200 alone is expected.")
                spent = servers[name].cpu_seconds() - begun
                row[name] = {
                    "ms": latencies[name],
                    "a_second": load.rate(),
                    "p99_ms": 1e3 * quantile(load.times(), 0.99),
                    "cpu_ms": 1e3 * spent / len(load.rows),
                }
                advance()
            rows.append(row)
        found[kind] = summary(rows)
    memory = {name: server.resident_bytes() for name, server in servers.items()}
    return {
        "count": count,
        "clients": clients,
        "seconds_each": seconds,
        "rounds": rounds,
        "bodies": found,
        "resident_bytes": memory,
        "processes": {name: len(server.processes()) for name, server in servers.items()},
    }


def summary(rows: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Of each server the medians; ratios are to `serve` in the same round."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        times = sorted(value for row in rows for value in row[name]["ms"])
        own = {"one_client_ms": median(times), "one_client_p90_ms": quantile(times, 0.9)}
        for key in ("a_second", "p99_ms", "cpu_ms"):
            own[key] = median(row[name][key] for row in rows)
        own["one_client_ratio"] = median(median(row[name]["ms"]) / median(row["serve"]["ms"]) for row in rows)
        own["rate_ratio"] = median(row[name]["a_second"] / row["serve"]["a_second"] for row in rows)
        found[name] = own
    return found


def _by_turns(servers: dict[str, Server], bodies: dict[str, Body], count: int, turn: int) -> dict[str, list[float]]:
    """Milliseconds of each request of one client."""
    clients = {name: Client(server.address) for name, server in servers.items()}
    times: dict[str, list[float]] = {name: [] for name in servers}
    names = list(servers)
    for number in range(_WARM_UP + count):
        for step in range(len(names)):
            name = names[(turn + number + step) % len(names)]
            start = time.perf_counter()
            status, _, data = clients[name].post(bodies[name])
            took = 1e3 * (time.perf_counter() - start)
            if status != 200:
                raise GateError(f"{name} answered with {status}: {data[:300].decode(errors='replace')}")
            if number >= _WARM_UP:
                times[name].append(took)
    for client in clients.values():
        client.close()
    return times

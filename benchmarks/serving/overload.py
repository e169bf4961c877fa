"""More requests than the server can answer: what the accepted ones wait, how the others are refused, what it holds."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from load import Load, drive, quantile
from servers import Client
from setting import Setting

from ntre_deploy.errors import NtreError

# clients beyond those that the server keeps waiting; it is they who are refused
EXTRA = 16
# of clients for whom nobody has to wait long, when the capacity is measured
_IN_TURN = 2
_PAUSE = 0.05


@dataclass
class Probe:
    """A client that reads the refusals' heads, and looks at the server's memory meanwhile.

    Attributes:
        statuses: how often each was seen.
        unsaid: refusals that do not say when to come again.
        refused_ms: how long a refusal took.
        most_bytes: resident memory.
        broken: requests without an answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    unsaid: int = 0
    refused_ms: list[float] = field(default_factory=list)
    most_bytes: int = 0
    broken: list[str] = field(default_factory=list)

    def look(self, setting: Setting, over: threading.Event) -> None:
        """Ask until it is over."""
        client = Client(setting.server.address)
        while not over.wait(_PAUSE):
            start = time.perf_counter()
            try:
                status, headers, _ = client.post(setting.body)
                self.most_bytes = max(self.most_bytes, setting.server.resident_bytes())
            except NtreError as error:
                self.broken.append(str(error))
                continue
            self.statuses[status] += 1
            if status == 429:
                self.refused_ms.append(1e3 * (time.perf_counter() - start))
                self.unsaid += not (headers["Retry-After"] or "").isdecimal()
        client.close()


def measure(
    setting: Setting, factors: list[float], rounds: int, seconds: float, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The capacity, and then a load of each factor of it, in turn.

    Accepted requests must not take longer than `(waiting / workers + 1) x service time`, where the service time is
    `workers / capacity`: what clients find who hardly wait.
    """
    probe, over = Probe(), threading.Event()
    capacities: list[float] = []
    loads: dict[float, list[Load]] = {factor: [] for factor in factors}
    places = setting.workers + setting.wanted.queue

    def driven(clients: int, each: float | None = None) -> Load:
        found = drive(setting.server.address, setting.body, setting.folder, clients=clients, seconds=seconds, each=each)
        advance()
        return found

    driven(_IN_TURN * setting.workers)
    # what so many waiting requests hold belongs to the server's usual state
    driven(places)
    memory = [setting.server.sample().resident_bytes]
    for _ in range(rounds):
        for factor in factors:
            capacity = driven(_IN_TURN * setting.workers).rate()
            capacities.append(capacity)
            watching = threading.Thread(target=probe.look, args=(setting, over), daemon=True)
            watching.start()
            # those that wait ask as often as the capacity lets them, and the others for the rest
            loads[factor].append(driven(places + EXTRA, (factor - 1) * capacity / EXTRA))
            over.set()
            watching.join()
            over.clear()
    memory.append(setting.server.sample().resident_bytes)
    return {
        "clients": places + EXTRA,
        "seconds_each": seconds,
        **summary(loads, median(capacities), setting.workers, setting.wanted.queue),
        "probe": {
            "statuses": {str(status): count for status, count in sorted(probe.statuses.items())},
            "refusals_without_retry_after": probe.unsaid,
            "refused_ms": quantile(sorted(probe.refused_ms), 0.5),
            "broken": probe.broken,
        },
        "resident_bytes": {"before": memory[0], "after": memory[1], "most": max(probe.most_bytes, *memory)},
    }


def summary(loads: dict[float, list[Load]], capacity: float, workers: int, waiting: int) -> dict[str, Any]:
    """What the loads of each factor have found, against the bound of their waiting; times in milliseconds."""
    service = 1e3 * workers / capacity
    bound = (waiting / workers + 1) * service
    found = {}
    for factor, own in loads.items():
        times = sorted(1e3 * value for load in own for value in load.times())
        statuses: Counter[str] = Counter()
        for load in own:
            statuses.update(load.statuses)
        offered = median(load.rate(None) for load in own)
        p99 = quantile(times, 0.99)
        found[f"{factor:g}"] = {
            "offered_a_second": offered,
            "offered_of_capacity": offered / capacity,
            "accepted_a_second": median(load.rate() for load in own),
            "accepted_of_capacity": median(load.rate() for load in own) / capacity,
            "statuses": dict(statuses),
            "p50_ms": quantile(times, 0.5),
            "p99_ms": p99,
            "most_ms": times[-1] if times else None,
            "p99_of_bound": p99 / bound,
            "passed": p99 <= bound,
        }
    return {"capacity_a_second": capacity, "service_ms": service, "bound_ms": bound, "loads": found}


def problems(found: dict[str, Any]) -> list[str]:
    """A sentence for everything but times that must not be."""
    failed = []
    for factor, load in found["loads"].items():
        if others := {status: n for status, n in load["statuses"].items() if status not in ("200", "429")}:
            failed.append(f"At {factor} times the capacity requests were answered with {others}.")
        if "429" not in load["statuses"]:
            failed.append(f"At {factor} times the capacity nothing was refused: it was no overload.")
    probe = found["probe"]
    if probe["refusals_without_retry_after"]:
        failed.append(f"{probe['refusals_without_retry_after']} refusals do not say when to come again.")
    if "429" not in probe["statuses"]:
        failed.append("No refusal's head was seen.")
    if probe["broken"] or set(probe["statuses"]) - {"200", "429"}:
        failed.append(f"The probe found {probe['statuses']}, and {len(probe['broken'])} requests broke.")
    return failed

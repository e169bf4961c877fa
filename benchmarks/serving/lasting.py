"""Requests for long: 8 clients of the load generator, one that compares every mask, and looks at the process."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bodies import TARGET, Body, form_body, labels_of_png, labels_of_v2, photo, v2_body
from load import drive, quantile
from material import digest  # type: ignore[import-not-found]
from servers import Client
from setting import MODEL, Setting
from usage import SAMPLES, judge  # type: ignore[import-not-found]

from ntre_deploy.errors import NtreError
from ntre_deploy.serving.supports import Named

PHOTOS = 8
CLIENTS = 8
# widths and heights of the smallest and of the largest
_LEAST, _MOST = 64, (400, 300)


@dataclass
class Checker:
    """A client that asks beside the load, for photos by turns of chance, and compares each mask by its hash.

    Attributes:
        asked: its requests.
        wrong: masks that differ from those of a service in this process.
        broken: what was wrong with others.
    """

    asked: int = 0
    wrong: int = 0
    broken: list[str] = field(default_factory=list)

    def look(self, setting: Setting, known: list[tuple[Body, str]], seed: int, over: threading.Event) -> None:
        """Ask until it is over."""
        client, draw = Client(setting.server.address), random.Random(seed)
        while not over.is_set():
            body, expected = draw.choice(known)
            try:
                status, headers, data = client.post(body)
                if status != 200:
                    self.broken.append(f"{body.path}: {status}")
                elif digest(_labels(body, headers, data)) != expected:
                    self.wrong += 1
            except (NtreError, ValueError) as error:
                self.broken.append(str(error))
            self.asked += 1
        client.close()


def material(setting: Setting) -> list[tuple[Body, str]]:
    """Requests for photos of different sizes by both roads, each with the hash of its right label map."""
    draw, found = random.Random(setting.wanted.seed), []
    for number in range(PHOTOS):
        # the last is as large as they get, and the first as small
        share = number / (PHOTOS - 1)
        width, height = (round(_LEAST + share * (most - _LEAST)) for most in _MOST)
        size = (width, height) if draw.random() < 0.7 else (height, width)
        jpeg = photo(None, setting.wanted.seed, size, number)
        expected = digest(setting.service.segment(jpeg, [Named(TARGET)]).labels)
        found += [(v2_body(MODEL, jpeg), expected), (form_body(jpeg, "png"), expected)]
    return found


def measure(
    setting: Setting,
    count: int,
    advance: Callable[[int], None] = lambda done: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Ask so often, and look at the process 200 times meanwhile, whenever no client of the load is connected.

    Args:
        advance: called with the requests that were done, now and then.
        interrupted: whether to end before.
    """
    known, checker, over = material(setting), Checker(), threading.Event()
    each = max(1, count // SAMPLES // CLIENTS) * CLIENTS
    statuses: Counter[str] = Counter()
    times: list[float] = []
    broken = done = 0
    samples = [setting.server.sample(0)]
    looking = threading.Thread(target=checker.look, args=(setting, known, setting.wanted.seed, over), daemon=True)
    looking.start()
    begun, number = time.perf_counter(), 0
    try:
        while done < count and not interrupted():
            # the largest first: what the process needs at most belongs to its warm-up
            body, _ = known[-1 - number % len(known)]
            load = drive(setting.server.address, body, setting.folder, clients=CLIENTS, count=min(each, count - done))
            statuses.update(load.statuses)
            times += load.times()
            broken += load.broken
            done += load.asked or 0
            number += 1
            samples.append(setting.server.sample(done, connections=1))
            advance(done)
    finally:
        over.set()
        looking.join()
    verdict = judge(samples, count)
    times.sort()
    failed = list(verdict.failed)
    if others := {status: n for status, n in statuses.items() if status != "200"}:
        failed.insert(0, f"Requests were answered with {others}.")
    if broken or checker.broken:
        failed.insert(0, f"{broken + len(checker.broken)} requests were not answered as they should be.")
    if checker.wrong:
        failed.insert(0, f"{checker.wrong} of {checker.asked} masks are wrong.")
    if not checker.asked:
        failed.append("No mask was compared.")
    seconds = time.perf_counter() - begun
    return {
        "count": count,
        "completed": done,
        "clients": CLIENTS,
        "photos": PHOTOS,
        "seconds": seconds,
        "a_second": done / seconds,
        "statuses": dict(statuses),
        "broken": broken,
        "p50_ms": 1e3 * quantile(times, 0.5),
        "p99_ms": 1e3 * quantile(times, 0.99),
        "compared": {"masks": checker.asked, "wrong": checker.wrong, "broken": checker.broken[:20]},
        "cpu_ms_a_request": 1e3 * setting.server.cpu_seconds() / max(1, done + checker.asked),
        "passed": not failed and done == count,
        "failed": failed,
        "usage": verdict.figures,
    }


def _labels(body: Body, headers: Any, data: bytes) -> Any:
    if body.path.startswith("/segment"):
        return labels_of_png(data)
    return labels_of_v2(headers["Inference-Header-Content-Length"], data)

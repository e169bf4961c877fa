"""What HTTP adds to a call in the process: one client, one photo at a time, all ways in turn."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from bodies import TARGET, Body, Pixels, form_body, labels_of_png, labels_of_v2, v2_body
from load import quantile
from servers import Client
from setting import MODEL, Setting

from ntre_deploy.errors import GateError
from ntre_deploy.runtime.imagefile import decode_image
from ntre_deploy.serving.supports import Named

# milliseconds at the median, for those that are judged
ALLOWED_MS = 2.0
JUDGED = ("v2", "form_json", "form_png")
_WARM_UP = 5


def measure(setting: Setting, count: int, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Milliseconds of each way from the JPEG's bytes to the label map (of JSON, to the whole answer), `count` of each.

    `v2_pixels` sends decoded pixels instead, and `probe` asks for `/healthz`, which no worker sees.

    Raises:
        GateError: a way gives another label map, or an error.
    """
    client = Client(setting.server.address)
    pixels = decode_image(setting.photo)

    def post(body: Body) -> tuple[Any, bytes]:
        status, headers, data = client.post(body)
        if status != 200:
            raise GateError(f"{body.path} was answered with {status}: {data[:300].decode(errors='replace')}")
        return headers, data

    def v2(body: Body) -> Pixels:
        headers, data = post(body)
        return labels_of_v2(headers["Inference-Header-Content-Length"], data)

    bodies = {name: form_body(setting.photo, name) for name in ("json", "png")}
    sent = v2_body(MODEL, pixels)
    ways: dict[str, Callable[[], Any]] = {
        "in_process": lambda: setting.service.segment(setting.photo, [Named(TARGET)]).labels,
        "v2": lambda: v2(setting.body),
        "v2_pixels": lambda: v2(sent),
        "form_json": lambda: post(bodies["json"])[1],
        "form_png": lambda: labels_of_png(post(bodies["png"])[1]),
        "probe": lambda: client.ask("GET", "/healthz")[2],
    }
    for name, way in ways.items():
        found = way()
        if isinstance(found, np.ndarray) and name != "v2_pixels" and not np.array_equal(found, setting.labels):
            raise GateError(f"{name} gives another label map than the same bundle in this process.")
    names, times = list(ways), {name: [] for name in ways}  # type: dict[str, list[float]]
    for turn in range(_WARM_UP + count):
        # each way is first in some turns
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = time.perf_counter()
            ways[name]()
            took = 1e3 * (time.perf_counter() - start)
            if turn >= _WARM_UP:
                times[name].append(took)
        advance()
    client.close()
    return {"client": "http.client, one connection that is kept", "count": count, "ways": summary(times)}


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and what each way takes more than the call in the process, in milliseconds."""
    base = times["in_process"]
    found: dict[str, Any] = {}
    for name, own in times.items():
        found[name] = {"ms": median(own), "p90_ms": quantile(sorted(own), 0.9), "least_ms": min(own)}
        if name in ("in_process", "probe"):
            continue
        more = found[name]["ms"] - median(base)
        found[name]["more_ms"] = more
        # of the same turn, in which the machine was as busy
        found[name]["more_in_turn_ms"] = median(a - b for a, b in zip(own, base, strict=True))
        found[name]["more_least_ms"] = min(own) - min(base)
        if name in JUDGED:
            found[name] |= {"allowed_ms": ALLOWED_MS, "passed": more <= ALLOWED_MS}
    return found

"""What many photos need and cost, from the figures of `throughput` and prices that are assumed."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading

_HOUR = 3600
_MILLION = 1_000_000


@dataclass(frozen=True)
class Assumed:
    """What is not measured.

    Attributes:
        core_hour, gpu_hour: prices of an hour of a core, and of a GPU without the cores beside it.
        busy: share of the time for which a core or GPU works, so that nobody waits long.
        gpu_rate: photos a second that one GPU computes, by `ntre bench` there.
        machine: cores of one.
    """

    core_hour: float = 0.04
    gpu_hour: float = 1.0
    busy: float = 0.7
    gpu_rate: float = 300.0
    machine: int = 16


@dataclass(frozen=True)
class Measured:
    """Processor seconds of a photo, and its size.

    Attributes:
        served: of the server, from request to answer.
        engine: of the bench: from pixels to the label map.
        bytes: of the JPEG.
        height, width: of it and of its label map.
    """

    served: float
    engine: float
    bytes: int
    height: int
    width: int

    @property
    def around(self) -> float:
        """Of HTTP, of reading the JPEG, of scores and of the answer: what the bench has not."""
        return max(0.0, self.served - self.engine)

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """From the JSON of `throughput`.

        Raises:
            InputError: it is none.
        """
        with reading(path, "Result"):
            text = path.read_text()
        try:
            found = json.loads(text)
            sides = found["sides"]
            height, width = found["photo"]["pixels"]
            served, engine = (sides[name]["cpu_ms_a_photo"] / 1e3 for name in ("http", "bench"))
            return cls(served, engine, found["photo"]["bytes"], height, width)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no result of `python benchmarks/serving throughput`.") from error


def needs(given: Measured, rate: float, photos: float, assumed: Assumed) -> dict[str, Any]:
    """What `rate` requests a second and so many photos need.

    Returns:
        cores, machines, GPUs and cores beside them, gigabits a second in and out, core-hours and hours, terabytes, and
        prices of a million photos.
    """
    labels = given.height * given.width
    cores = rate * given.served / assumed.busy
    beside = rate * given.around / assumed.busy
    gpu_second = 1 / (assumed.gpu_rate * assumed.busy)
    return {
        "cores": cores,
        "machines": math.ceil(cores / assumed.machine),
        "gbit_in": rate * given.bytes * 8 / 1e9,
        "gbit_out": rate * labels * 8 / 1e9,
        "gpus": math.ceil(rate * gpu_second),
        "gpu_cores": beside,
        "core_hours": photos * given.served / _HOUR,
        "hours_of_1000_cores": photos * given.served / assumed.busy / 1000 / _HOUR,
        "terabytes": photos * given.bytes / 1e12,
        "million_on_cores": _MILLION * given.served / assumed.busy / _HOUR * assumed.core_hour,
        "million_on_gpus": _MILLION
        / _HOUR
        * (gpu_second * assumed.gpu_hour + given.around / assumed.busy * assumed.core_hour),
    }


def rows(given: Measured, found: dict[str, Any], rate: float, photos: float, assumed: Assumed) -> list[str]:
    """A table in Markdown."""
    shown = [
        ("a photo", f"{1e3 * given.served:.1f} ms of a core, {1e3 * given.around:.1f} of them around the network"),
        (f"{rate:,.0f} requests a second on CPUs", f"{found['cores']:.0f} cores: {found['machines']} machines"),
        ("the same on GPUs", f"{found['gpus']} GPUs, {found['gpu_cores']:.0f} cores beside them"),
        ("network, JPEGs in", f"{found['gbit_in']:.2f} Gbit/s"),
        ("network, label maps out as bytes", f"{found['gbit_out']:.2f} Gbit/s"),
        (f"{photos / _MILLION:,.0f} million photos", f"{found['core_hours']:,.0f} core-hours of work"),
        ("the same, on 1,000 cores", f"{found['hours_of_1000_cores']:.1f} hours"),
        ("their files", f"{found['terabytes']:.1f} TB"),
        ("a million photos on CPUs", f"${found['million_on_cores']:.2f} at ${assumed.core_hour:g} a core-hour"),
        (
            "a million photos on GPUs",
            f"${found['million_on_gpus']:.2f} at ${assumed.gpu_hour:g} a GPU-hour, with the cores beside them",
        ),
    ]
    return ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in shown)]

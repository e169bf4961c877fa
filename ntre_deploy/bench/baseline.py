"""An earlier `bench.json`, to compare a run with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError
from ntre_deploy.files import reading

FORMAT = "ntre-bench"
VERSION = 3

# bundle, engine, precision
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Earlier:
    """What a gate needs of one engine of the earlier run."""

    p50: float
    speedup: float | None
    miou: float


@dataclass(frozen=True)
class Baseline:
    """An earlier run.

    Attributes:
        machine: processor and threads; milliseconds of another machine say nothing about this one.
        episodes: SHA-256 of its episodes.
        engines: by bundle, name and precision.
    """

    path: Path
    machine: tuple[str, int | None]
    episodes: str
    engines: dict[Key, Earlier]

    def check_episodes(self, sha256: str) -> None:
        """See that both runs have the same episodes, without which accuracies cannot be compared.

        Raises:
            InputError: they differ.
        """
        if sha256 != self.episodes:
            raise InputError(
                f"{self.path} was measured on other episodes; write them to a file once with --episodes FILE, and "
                "give that file (and its dataset) in both runs."
            )


def read_baseline(path: Path) -> Baseline:
    """Read a report that an earlier run has written with `--out` or `--json`.

    Raises:
        InputError: no such file, another format or version, or figures are missing.
    """
    with reading(path, "Baseline"):
        if not path.is_file():
            raise InputError(f"Baseline {path} does not exist or is no file; give the bench.json of an earlier run.")
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"Baseline {path} is not readable JSON ({error}); give the bench.json of a run.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no report of `ntre bench`; give the bench.json of an earlier run.")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} has version {content.get('version')!r} of the report; this version of ntre reads {VERSION}: "
            "measure the baseline again."
        )
    try:
        environment = content["environment"]
        return Baseline(
            path,
            (str(environment["cpu"]), environment["threads"]),
            str(content["episodes"]["sha256"]),
            dict(_engine(system) for system in content["systems"] if system["kind"] == "engine"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"Baseline {path} lacks figures of a report ({error}); measure it again.") from error


def _engine(system: Mapping[str, Any]) -> tuple[Key, Earlier]:
    earlier = Earlier(
        p50=float(system["latency_ms"]["total"]["p50"]),
        speedup=None if system["speedup"] is None else float(system["speedup"]),
        miou=float(system["accuracy"]["miou"]),
    )
    return (str(system["bundle"]), str(system["name"]), str(system["precision"])), earlier

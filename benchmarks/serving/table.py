"""The table of the README from the results: python benchmarks/serving/table.py [FOLDER]"""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
# ending of a result's name, and its model
_COLUMNS = {"_r50": "ResNet-50, 473 pixels", "": "photos, 385 pixels", "_demo49": "small model, 49 pixels"}
_MIB = 2**20


def lines(folder: Path) -> list[str]:
    """Rows in Markdown; those whose result is missing are left out."""
    found = [f"| | aim | {' | '.join(_COLUMNS.values())} |", "|---|---|" + "---|" * len(_COLUMNS)]
    for name, rows in (
        ("overhead", _overhead),
        ("throughput", _throughput),
        ("overload", _overload),
        ("triton", _triton),
        ("soak", _soak),
    ):
        read = [_read(folder / f"serving_{name}{column}.json") for column in _COLUMNS]
        if name == "soak":
            # its requests are for the small one
            read = [None, None, read[1]]
        told = [{} if one is None else rows(one) for one in read]
        for key in dict.fromkeys(key for one in told for key in one):
            what, aim = key
            found.append(f"| {what} | {aim} | {' | '.join(one.get(key, '') for one in told)} |")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None  # type: ignore[no-any-return]


def _overhead(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    ways = found["ways"]
    base = ways["in_process"]["ms"]
    rows = {("call in the process, one client", ""): f"{base:.1f} ms"}
    for name, what in (
        ("v2", "HTTP, open inference protocol"),
        ("v2_pixels", "the same, pixels in place of a JPEG"),
        ("form_json", "`POST /segment`, JSON"),
        ("form_png", "`POST /segment`, PNG"),
    ):
        aim = f"{ways[name]['allowed_ms']:+.0f} ms" if "allowed_ms" in ways[name] else ""
        rows[what, aim] = f"{ways[name]['more_ms']:+.2f} ms ({ways[name]['more_in_turn_ms']:+.2f} by turns)"
    return rows


def _throughput(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    sides = found["sides"]
    http, own = sides["http"], sides["in_process"]
    low, high = http["ratios"]
    cpu = ", ".join(f"{sides[name]['cpu_ms_a_photo']:.1f}" for name in ("bench", "in_process", "http"))
    return {
        ("`ntre bench`'s rate", ""): f"{sides['bench']['a_second']:.1f} a second",
        (f"server with {found['clients']} clients, of that", f"{http['allowed']:.0%}"): (
            f"{http['ratio']:.0%} ({low:.0%} to {high:.0%})"
        ),
        ("the same in the process, of that", ""): f"{own['ratio']:.0%}",
        ("CPU ms a photo: bench, in the process, server", ""): cpu,
    }


def _overload(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    rows = {}
    for factor, load in found["loads"].items():
        what = f"{factor} times the capacity: p99 of what is accepted, of the bound"
        rows[what, "100 %"] = (
            f"{load['p99_of_bound']:.0%} (p50 {load['p50_ms']:.0f} ms, p99 {load['p99_ms']:.0f} ms; "
            f"{load['offered_of_capacity']:.1f} x offered, {load['accepted_of_capacity']:.2f} x answered)"
        )
    refused = sum(load["statuses"].get("429", 0) for load in found["loads"].values())
    probe, memory = found["probe"], found["resident_bytes"]
    rows["refusals (429); of those whose heads were read, without Retry-After", "0"] = (
        f"{refused:,}; {probe['refusals_without_retry_after']} of {probe['statuses'].get('429', 0)}"
    )
    told = ", ".join(f"{memory[name] / _MIB:.1f}" for name in ("before", "after", "most"))
    rows["MiB resident before, after, at most", ""] = told
    return rows


def _triton(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    rows = {}
    for kind, both in found["bodies"].items():
        own, other = both["serve"], both["triton"]
        rows[f"Triton, {kind}: one client", ""] = (
            f"{other['one_client_ratio']:.2f} x ({other['one_client_ms']:.1f} ms; serve {own['one_client_ms']:.1f})"
        )
        rows[f"Triton, {kind}: rate with {found['clients']} clients", ""] = (
            f"{other['rate_ratio']:.2f} x ({other['a_second']:.1f} a second; serve {own['a_second']:.1f})"
        )
    memory = found["resident_bytes"]
    rows["MiB resident, Triton with its processes and serve", ""] = (
        f"{memory['triton'] / _MIB:.0f} and {memory['serve'] / _MIB:.0f}"
    )
    return rows


def _soak(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    usage, compared = found["usage"], found["compared"]
    errors = found["broken"] + found["completed"] - found["statuses"].get("200", 0)
    rows = {
        ("long run: requests; errors", "100,000; 0"): f"{found['completed']:,}; {errors}",
        ("masks compared; wrong", "0"): f"{compared['masks']:,}; {compared['wrong']}",
    }
    if "growth" in usage:
        rows["resident memory after warm-up, at the end", "within 5 %"] = (
            f"{usage['resident_bytes_after_warm_up'] / _MIB:.1f} MiB, {usage['resident_bytes_at_end'] / _MIB:.1f} "
            f"({usage['growth']:+.1%})"
        )
        rows["open files", "constant"] = " to ".join(str(n) for n in sorted(set(usage["files"])))
    return rows


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)))

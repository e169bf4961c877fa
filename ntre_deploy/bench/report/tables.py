"""Figures as text: the same for terminal, Markdown and page."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from ntre_deploy.training.evaluation_report import signed
from ntre_deploy.training.ways_report import shares_of

Report = Mapping[str, Any]
Row = tuple[str, ...]

LATENCY = ("system", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "speed-up", "mIoU", "differing pixels")
PARITY = (
    "system",
    "mIoU",
    "FB-IoU",
    "mIoU drop (95 %)",
    "differing pixels",
    "worst episode",
    "mask IoU",
    "logits error",
)
COSTS = ("system", "support ms", "load ms", "first query ms", "images/s (threads)", "memory MB", "files MB")
WAYS = ("system", "N-way mIoU", "one-way mIoU", "difference (95 %)", "vanished")
MISSING = "-"


def title(report: Report) -> str:
    """One line: what was measured, on what."""
    episodes = report["episodes"]
    models = ", ".join(
        dict.fromkeys(f"{b['name']}: {b['config']['backbone']} at {b['input_size']}" for b in report["bundles"])
    )
    ways = f"{episodes['ways']}-way " if "ways" in episodes else ""
    return (
        f"{models}, {ways}{episodes['shots']}-shot, {episodes['count']} episodes of {episodes['dataset']}, "
        f"{threads(report['environment']['threads'])}"
    )


def latency_rows(report: Report) -> list[Row]:
    """A row of `LATENCY` for every system: end to end, from image to label map."""
    rows: list[Row] = []
    for system in report["systems"]:
        total = system["latency_ms"]["total"]
        rows.append(
            (
                system["label"],
                *(milliseconds(total[name]) for name in ("p50", "p90", "p95", "p99")),
                factor(system["speedup"]),
                points(system["accuracy"]["miou"]),
                share(system["parity"]["differing_pixels"]),
            )
        )
    return rows


def parity_rows(report: Report) -> list[Row]:
    """A row of `PARITY` for every system."""
    rows: list[Row] = []
    for system in report["systems"]:
        accuracy, parity = system["accuracy"], system["parity"]
        error = "NaN" if parity["logits_error"] is None else f"{parity['logits_error']:.1e}"
        rows.append(
            (
                system["label"],
                points(accuracy["miou"]),
                points(accuracy["fb_iou"]),
                drop(parity["miou_drop"], parity["miou_drop_interval"]),
                share(parity["differing_pixels"]),
                share(parity["worst_episode"]),
                f"{parity['mask_iou']:.4f}",
                error,
            )
        )
    return rows


def ways_rows(report: Report) -> list[Row]:
    """A row of `WAYS` for every system; none where there is one way."""
    rows: list[Row] = []
    for system in report["systems"]:
        if (ways := system["accuracy"].get("ways")) is not None:
            lost = ways["vanished"]
            rows.append(
                (
                    system["label"],
                    points(system["accuracy"]["miou"]),
                    points(ways["one_way_miou"]),
                    drop(ways["difference"], ways["difference_interval"]),
                    f"{lost['queries']} of {lost['found_queries']} ({lost['share']:.1%})",
                )
            )
    return rows


def confusion_rows(matrix: Sequence[Sequence[int]]) -> tuple[Row, list[Row]]:
    """Columns and rows of a confusion matrix, in percent of each row's pixels."""
    names = ["background", *(f"way {n}" for n in range(1, len(matrix)))]
    shares = shares_of(matrix)
    rows = [(name, *(f"{100 * value:.2f}" for value in row)) for name, row in zip(names, shares, strict=True)]
    return ("truth", *names), rows


def cost_rows(report: Report) -> list[Row]:
    """A row of `COSTS` for every system; the images per second are the best of the numbers of threads."""
    rows: list[Row] = []
    for system in report["systems"]:
        found, support = system["footprint"], system["support_ms"]
        rates = system["throughput"] or []
        best = max(rates, key=lambda rate: float(rate["median"]), default=None)
        rows.append(
            (
                system["label"],
                milliseconds(support["p50"]) if support else MISSING,
                f"{found['load_ms']:.0f}" if found else MISSING,
                f"{found['first_query_ms']:.0f}" if found else MISSING,
                f"{best['median']:.1f} ({best['workers']})" if best else MISSING,
                _memory(found),
                megabytes(sum(system["files"].values())) if system["files"] else MISSING,
            )
        )
    return rows


def table(report: Report) -> Table:
    """The terminal's table: query latency end to end, speed-up against PyTorch, accuracy, parity."""
    return _table(title(report), LATENCY, latency_rows(report))


def costs(report: Report) -> Table:
    """The terminal's second table: what a system costs besides a query's time."""
    return _table("before and beside the queries", COSTS, cost_rows(report))


def ways(report: Report) -> Table | None:
    """The terminal's table of several classes; None where there is one way."""
    rows = ways_rows(report)
    return _table("several classes at once, and each alone on the same queries", WAYS, rows) if rows else None


def _table(heading: str, columns: Row, rows: list[Row]) -> Table:
    result = Table(title=heading, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        # units below names, so that a table fits 80 columns; where it does not, names give way and never figures
        first = index == 0
        result.add_column(
            column.replace(" ", "\n"), justify="left" if first else "right", no_wrap=not first, overflow="fold"
        )
    for row in rows:
        result.add_row(*row)
    return result


def milliseconds(value: float) -> str:
    """Milliseconds with the digits that a clock can tell."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def factor(value: float | None) -> str:
    """A speed-up; None where there is nothing to compare with."""
    return MISSING if value is None else f"{value:.2f} x"


def points(value: float) -> str:
    """A share in [0, 1] as points."""
    return f"{100 * value:.2f}"


def share(value: float) -> str:
    """A share in [0, 1] as percent."""
    return f"{100 * value:.3f} %"


def drop(value: float, interval: list[float] | None) -> str:
    """A difference in points, with the ends of its interval."""
    text = signed(value)
    return text if interval is None else f"{text} ({signed(interval[0])} to {signed(interval[1])})"


def megabytes(count: float) -> str:
    """Bytes as MB."""
    return f"{count / 1e6:.1f}"


def threads(count: int) -> str:
    """A number of threads."""
    return f"{count} thread" if count == 1 else f"{count} threads"


def _memory(found: Mapping[str, Any] | None) -> str:
    if not found or found["peak_bytes"] is None:
        return MISSING
    text = f"{found['peak_bytes'] / 1e6:.0f}"
    return text if not found["device_bytes"] else f"{text} + {found['device_bytes'] / 1e6:.0f} GPU"

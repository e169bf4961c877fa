"""The Parquet of results: one row for each photo, also for those that could not be segmented."""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.segment.cluster.plan import RESULTS, Plan, done_parts, mask_name, part_name, photo_id
from ntre_deploy.segment.cluster.stores import Store
from ntre_deploy.segment.cluster.tables import in_order, whole_table


class Told(NamedTuple):
    """What is known of a whole run.

    Attributes:
        photos: that are done.
        failed: of them, those that could not be segmented.
        found: for each class the photos in which it was found.
    """

    photos: int
    failed: int
    found: dict[str, int]


def schema() -> Any:
    """The `pyarrow.Schema`; docs/ray.md describes each column."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    return pa.schema(
        [
            ("path", pa.string()),
            ("id", pa.string()),
            ("mask", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("classes", texts),
            ("counts", texts),
            ("areas", pa.list_(pa.int64())),
            ("scores", pa.list_(pa.float32())),
            ("error", pa.string()),
            ("model", pa.string()),
            ("bundle", pa.string()),
            ("memories", texts),
            ("engine", pa.string()),
        ]
    )


def found_row(plan: Plan, photo: str, result: Result, engine: str) -> dict[str, Any]:
    """The row of a photo that was segmented; its label map is at `mask_name`."""
    height, width = result.size
    return _row(plan, photo, engine) | {
        "mask": mask_name(photo),
        "height": height,
        "width": width,
        "counts": [result.rle(number)["counts"] for number in range(1, len(plan.names) + 1)],
        "areas": list(result.areas),
        "scores": list(result.scores),
    }


def failed_row(plan: Plan, photo: str, reason: str, engine: str) -> dict[str, Any]:
    """The row of a photo that could not be segmented, with the reason in one line."""
    line = " ".join(reason.split()).rstrip(".")
    return _row(plan, photo, engine) | {"error": line or "unknown"}


def _row(plan: Plan, photo: str, engine: str) -> dict[str, Any]:
    empty = dict.fromkeys(("mask", "height", "width", "counts", "areas", "scores", "error"))
    return empty | {
        "path": photo,
        "id": photo_id(photo),
        "classes": list(plan.names),
        "model": plan.model,
        "bundle": plan.bundle,
        "memories": list(plan.memories),
        "engine": engine,
    }


def write_rows(store: Store, part: int, rows: Sequence[dict[str, Any]]) -> None:
    """Write the file of a part, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema()), file, compression="zstd")
    store.write(part_name(part), file.getvalue())


def read_rows(store: Store, part: int) -> list[dict[str, Any]]:
    """The rows of a part; none where there is no readable file of it."""
    from pyarrow import ArrowException

    content = store.read(part_name(part))
    try:
        rows: list[dict[str, Any]] = [] if content is None else whole_table(io.BytesIO(content)).to_pylist()
    except (ArrowException, OSError):
        return []
    return rows


def _parts(store: Store, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Each part that is done, and those columns of its rows."""
    from pyarrow import ArrowException

    def read(part: int) -> Any:
        with store.open(part_name(part)) as file:
            rows = whole_table(file, columns)
        if missing := [name for name in columns if name not in rows.column_names]:
            raise InputError(
                f"{store.place}/{part_name(part)} has no column '{missing[0]}', so it is no result of `ntre segment`; "
                "move it away, and the same command makes that part again."
            )
        return rows

    try:
        yield from in_order(sorted(done_parts(store)), read)
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{store.place}/{RESULTS} cannot be read: {reason}.") from error


def failed_parts(store: Store) -> dict[int, int]:
    """Parts with photos that could not be segmented, and how many.

    Raises:
        InputError: the results cannot be read.
    """
    counts = {part: len(rows) - rows["error"].null_count for part, rows in _parts(store, ["error"])}
    return {part: failed for part, failed in counts.items() if failed}


def tell(store: Store, names: Sequence[str]) -> Told:
    """Count the rows of a run.

    Raises:
        InputError: the results cannot be read.
    """
    from pyarrow import compute

    photos = failed = 0
    found = dict.fromkeys(names, 0)
    for _, rows in _parts(store, ["error", "areas"]):
        photos += len(rows)
        failed += len(rows) - rows["error"].null_count
        areas = rows["areas"].drop_null()
        for number, name in enumerate(names):
            own = compute.list_element(areas, number) if len(areas) else None
            found[name] += 0 if own is None else compute.sum(compute.greater(own, 0)).as_py() or 0
    return Told(photos, failed, found)


def failures(store: Store, most: int) -> Iterable[tuple[str, str]]:
    """Path and reason of photos that could not be segmented, `most` at most.

    Raises:
        InputError: the results cannot be read.
    """
    rows = (row for _, part in _parts(store, ["path", "error"]) for row in part.to_pylist())
    told = ((row["path"], row["error"]) for row in rows if row["error"] is not None)
    yield from islice(told, most)

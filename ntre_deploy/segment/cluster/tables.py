"""Parquet of any place, read on threads of Python that have ended when the last row is there.

Arrow's own scanner lets go of what it has read on threads of its own, after its last batch too.  Where Python reads the
file for it, as fsspec does, such a thread needs the interpreter, and a process that ends at that moment is aborted.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Name = TypeVar("Name")

# files of an object store at once: each waits for the network most of the time
_AHEAD = 16


def opened_table(file: Any) -> Any:
    """A `pyarrow.parquet.ParquetFile` whose columns are read by the thread that asks for them.

    Args:
        file: binary, open for reading; or a path of this machine.

    Raises:
        pyarrow.ArrowException, OSError: it is no Parquet, or cannot be read.
    """
    from pyarrow import parquet

    return parquet.ParquetFile(file, pre_buffer=False)


def batches(table: Any, columns: Sequence[str], rows: int) -> Iterator[Any]:
    """The `pyarrow.RecordBatch`es of an `opened_table`, of at most so many rows."""
    found: Iterator[Any] = table.iter_batches(batch_size=rows, columns=list(columns), use_threads=False)
    return found


def whole_table(file: Any, columns: Sequence[str] | None = None) -> Any:
    """All of a Parquet file as a `pyarrow.Table`.

    Raises:
        pyarrow.ArrowException, OSError: as `opened_table`.
    """
    with opened_table(file) as table:
        return table.read(columns=None if columns is None else list(columns), use_threads=False)


def in_order(names: Iterable[Name], read: Callable[[Name], Any]) -> Iterator[tuple[Name, Any]]:
    """Each name and what `read` makes of it, in their order; a few are read ahead.

    Raises:
        Exception: whatever `read` raises, in its turn.
    """
    with ThreadPoolExecutor(_AHEAD, "parquet") as pool:
        waiting: deque[tuple[Name, Future[Any]]] = deque()
        try:
            left = iter(names)
            while True:
                for name in islice(left, _AHEAD + 1 - len(waiting)):
                    waiting.append((name, pool.submit(read, name)))
                if not waiting:
                    return
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

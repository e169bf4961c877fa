"""Parquet that Python reads for Arrow: nothing of it is left to a thread that outlives the answer."""

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.segment.cluster.plan import part_name
from ntre_deploy.segment.cluster.rows import failed_parts, tell
from ntre_deploy.segment.cluster.stores import Store
from ntre_deploy.segment.cluster.tables import batches, in_order, opened_table, whole_table

pa = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
pytest.importorskip("fsspec", reason="the extra `ray` is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from pyarrow import parquet

    for number in range(40):
        rows = pa.table({"path": [f"{number}-{k}" for k in range(50)], "error": [None] * 49 + ["bad"]})
        parquet.write_table(rows, tmp_path / f"{number}.parquet", row_group_size=20)
    return tmp_path


def test_a_table_is_read_by_columns_and_by_batches(folder: Path) -> None:
    with (folder / "3.parquet").open("rb") as file:
        assert whole_table(file, ["error"]).column_names == ["error"]
    with (folder / "3.parquet").open("rb") as file, opened_table(file) as table:
        found = [batch.column(0).to_pylist() for batch in batches(table, ["path"], 15)]
    assert [name for names in found for name in names] == [f"3-{k}" for k in range(50)]
    assert max(map(len, found)) <= 15
    with pytest.raises(pa.ArrowException):
        opened_table(__file__)


def test_names_come_in_order_few_ahead_and_no_thread_stays() -> None:
    begun: list[int] = []

    def read(name: int) -> int:
        begun.append(name)
        if name == 70:
            raise OSError("gone")
        return name * name

    before, seen = threading.active_count(), []
    reading = in_order(range(100), read)
    for name, square in reading:
        seen.append(name)
        assert square == name * name
        assert len(begun) <= name + 18
        if name == 50:
            break
    reading.close()
    assert seen == list(range(51))
    assert threading.active_count() == before
    with pytest.raises(OSError, match="gone"):
        list(in_order(range(100), read))
    assert threading.active_count() == before


_TOLD = """
import io
import pyarrow as pa
from pyarrow import parquet
from ntre_deploy.segment.cluster.plan import part_name
from ntre_deploy.segment.cluster.rows import failed_parts, failures, schema, tell
from ntre_deploy.segment.cluster.stores import Store

store, names = Store("memory://found"), schema().names
for part in range(60):
    rows = [{"path": f"{part}-{k}"} | ({"error": "gone"} if k % 2 else {"areas": [k]}) for k in range(64)]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows], schema()), file)
    store.write(part_name(part), file.getvalue())
assert failed_parts(store) == dict.fromkeys(range(60), 32)
told = tell(store, ["thing"])
assert (told.photos, told.failed, told.found) == (60 * 64, 60 * 32, {"thing": 60 * 31}), told
assert list(failures(store, 3)) == [("0-1", "gone"), ("0-3", "gone"), ("0-5", "gone")]
"""


@pytest.mark.slow
def test_a_process_ends_as_soon_as_it_has_what_it_wants() -> None:
    """By Arrow's scanner over the same files, of eight such processes six hung and two were aborted."""
    for _ in range(4):
        command = [sys.executable, "-P", "-c", _TOLD]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def test_a_part_that_is_something_else_is_named(tmp_path: Path) -> None:
    from pyarrow import parquet

    store, file = Store(str(tmp_path)), io.BytesIO()
    parquet.write_table(pa.table({"path": ["a"], "error": [None]}), file)
    store.write(part_name(7), file.getvalue())
    with pytest.raises(InputError, match=r"results/part-00000007\.parquet has no column 'areas'.*move it away"):
        tell(store, ["thing"])
    store.write(part_name(7), b"PAR1 and no more")
    with pytest.raises(InputError, match="results cannot be read: "):
        failed_parts(store)


def test_a_store_opens_what_it_has_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "new"))
    store.write("a/b", b"text")
    with store.open("a/b") as file:
        assert file.read() == b"text"

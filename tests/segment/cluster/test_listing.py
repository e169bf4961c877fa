"""What sources name: files, folders, patterns, lists and columns, without opening a photo."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="the extra ray is not installed")
pa = pytest.importorskip("pyarrow", reason="the extra ray is not installed")

from ntre_deploy.errors import EngineError, InputError  # noqa: E402
from ntre_deploy.segment.cluster.listing import Listing, source_key  # noqa: E402

Table = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "photos [1]"
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "in/c.heic", ".cache/d.jpg", "in/clip.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def table(tmp_path: Path) -> Table:
    from pyarrow import parquet

    def write(name: str, **columns: list[object]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns), path)
        return path

    return write


def listed(*sources: str | Path, **more: object) -> list[str]:
    return list(Listing([*map(str, sources)], **more))  # type: ignore[arg-type]


def test_folders_and_patterns(folder: Path) -> None:
    flat = [str(folder / name) for name in ("a.PNG", "b.jpg")]
    assert listed(folder) == listed(f"file://{folder}") == listed(folder.name) == flat
    assert listed(folder, recursive=True) == [*flat, str(folder / "in/c.heic")]
    assert listed("photos*/**/*.heic") == [str(folder / "in/c.heic")]
    assert listed(folder / "b.jpg", folder / "b.jpg") == [str(folder / "b.jpg")]
    listing = Listing([str(folder)], recursive=True)
    assert list(listing)
    assert listing.left == {".txt": 1, ".mp4": 1}


def test_lists_take_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{folder}/b.jpg\n\nnone.jpg\r\ns3://bucket/x.jpg\n")
    expected = [str(folder / "b.jpg"), str(tmp_path / "none.jpg"), "s3://bucket/x.jpg"]
    assert listed("@list.txt") == expected
    assert listed("-", lines=(tmp_path / "list.txt").read_text().splitlines(keepends=True)) == expected


def test_columns_of_parquet(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = table("one.parquet", size=[1, 2], where=["a.jpg", None])
    two = table("two.parquet", path=["/b.jpg"], label=["x"])
    table("many/x.parquet", place=["/c.jpg"])
    table("many/y.parquet", place=["/d.jpg"])
    assert listed(one) == listed(f"{one}@where") == [str(one.parent / "a.jpg")]
    assert listed(two) == ["/b.jpg"]
    assert listed(f"{two}@label") == [str(Path.cwd() / "x")]
    assert listed(f"{one.parent}/many@place") == ["/c.jpg", "/d.jpg"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.jpg", ("none.jpg", "does not exist")),
        ("none/*.jpg", ("none/*.jpg", "names no photo")),
        ("empty", ("empty", "names no photo", "--recursive")),
        ("@none.txt", ("none.txt", "does not exist")),
        ("@binary.txt", ("binary.txt", "UTF-8")),
        ("binary.parquet", ("binary.parquet", "Parquet")),
        ("none.parquet@path", ("none.parquet",)),
        ("two.parquet", ("2 columns", "a, b", "@COLUMN")),
        ("two.parquet@c", ("'c'", "a, b")),
        ("numbers.parquet", ("none", "@COLUMN")),
        ("nosuch://x/y.jpg", ("nosuch",)),
    ],
)
def test_a_source_that_names_nothing_is_refused(
    source: str, words: tuple[str, ...], table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty/inside").mkdir(parents=True)
    for name in ("binary.txt", "binary.parquet"):
        (tmp_path / name).write_bytes(bytes(range(128, 256)))
    table("two.parquet", a=["x"], b=["y"])
    table("numbers.parquet", a=[1])
    with pytest.raises((InputError, EngineError)) as caught:
        listed(source)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_changed_list_is_another_source(table: Table, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.jpg\n")
    before = source_key("@list.txt")
    assert source_key(f"@{path}") == before
    path.write_text("b.jpg\n")
    assert source_key("@list.txt") != before
    made = str(table("one.parquet", path=["a.jpg"]))
    before = source_key(made)
    assert source_key(made) == before != source_key(f"{made}@path")
    table("one.parquet", path=["a.jpg", "b.jpg"])
    assert source_key(made) != before
    assert source_key("-", ["a\n"]) == source_key("-", ["a"]) != source_key("-", ["b"])
    assert source_key(str(folder)) == source_key(folder.name) == {"name": str(folder)}

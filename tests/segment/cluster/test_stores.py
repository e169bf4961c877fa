"""Files by their names, on this machine and through fsspec: whole or not there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec", reason="the extra ray is not installed")
pytest.importorskip("pyarrow", reason="the extra ray is not installed")

from ntre_deploy.errors import EngineError, InputError  # noqa: E402
from ntre_deploy.segment.cluster.stores import Store, full_name, is_address, local_file, open_place  # noqa: E402


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    places = {"folder": str(tmp_path / "out"), "file": f"file://{tmp_path}/out/", "memory": "memory://out/run"}
    yield Store(places[request.param])
    fsspec.filesystem("memory").store.clear()


def test_files_are_written_read_listed_and_removed(store: Store) -> None:
    store.check()
    assert store.read("results/a") is None
    assert store.names("results") == []
    store.write("results/a", b"one")
    store.write("results/a", b"two")
    store.write("results/b", b"")
    assert store.read("results/a") == b"two"
    # nothing else is left there
    assert store.names("results") == ["a", "b"]
    store.remove("results/a")
    store.remove("results/a")
    assert store.names("results") == ["b"]
    store.sweep()
    assert store.names("") == ["results"]


def test_places_have_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_name("a/../b.jpg") == full_name("file://" + str(tmp_path / "b.jpg")) == str(tmp_path / "b.jpg")
    assert full_name("s3://bucket/a b.jpg") == "s3://bucket/a b.jpg"
    assert is_address("gs://x/y")
    assert not is_address("C:/x")
    opened = open_place("memory://x/y")
    assert opened.address(opened.path) == "memory://x/y"


def test_a_photo_elsewhere_is_copied_for_as_long_as_it_is_read(tmp_path: Path) -> None:
    Store("memory://there").write("one.HEIC", b"x")
    with local_file("memory://there/one.HEIC") as path:
        assert path.suffix == ".HEIC"
        assert path.read_bytes() == b"x"
    assert not path.exists()
    with pytest.raises(FileNotFoundError), local_file("memory://there/none.jpg"):
        pass
    with local_file(str(tmp_path / "here.jpg")) as path:
        assert path == tmp_path / "here.jpg"


def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        Store(str(tmp_path / "file/out")).check()
    with pytest.raises(InputError, match="file/out"):
        Store(str(tmp_path / "file/out")).write("x", b"")
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="locked"):
            Store(str(tmp_path / "locked/out")).check()


def test_unknown_schemes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nosuch"):
        open_place("nosuch://x/y")
    # an fsspec implementation whose package is missing, and that pyarrow does not have
    with pytest.raises(EngineError, match="not installed"):
        open_place("dropbox://x/y")

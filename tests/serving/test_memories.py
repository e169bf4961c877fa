"""Memories by name: kept through a restart, shared by processes, and nothing else in their folder taken for one."""

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.serving.limits import MissingError
from ntre_deploy.serving.memories import MemoryStore, check_name


@pytest.fixture(scope="module")
def memory(segmenter: Segmenter, shots: list[Any]) -> SupportMemory:
    return segmenter.encode_support([shots[0]], "fork")


@pytest.fixture(params=["folder", "none"])
def store(request: pytest.FixtureRequest, tmp_path: Path, memory: SupportMemory) -> MemoryStore:
    return MemoryStore(tmp_path / "kept" if request.param == "folder" else None, memory.model, most=3)


def same(one: SupportMemory, other: SupportMemory) -> bool:
    return one.to_bytes() == other.to_bytes()


def test_put_get_list_delete(store: MemoryStore, memory: SupportMemory) -> None:
    assert store.names() == []
    assert store.list() == []
    store.put("fork", memory)
    store.put("spoon", memory)
    assert store.names() == ["fork", "spoon"]
    assert same(store.get("fork"), memory)
    # the class is called as the client asks for it
    assert store.get("spoon").name == "spoon"
    assert store.get("fork") is store.get("fork")
    listed = store.list()
    assert [kept.name for kept in listed] == ["fork", "spoon"]
    assert all(kept.size == len(store.get(kept.name).to_bytes()) and not kept.error for kept in listed)
    store.delete("fork")
    assert store.names() == ["spoon"]
    with pytest.raises(MissingError, match=re.escape("There is no memory 'fork'; there is spoon.")):
        store.get("fork")
    with pytest.raises(MissingError):
        store.delete("fork")


def test_so_many_are_kept(store: MemoryStore, memory: SupportMemory) -> None:
    for name in "abc":
        store.put(name, memory)
    with pytest.raises(InputError, match="3 memories are kept, and no more may be; delete one"):
        store.put("d", memory)
    store.put("a", memory)
    store.delete("a")
    store.put("d", memory)
    assert store.names() == ["b", "c", "d"]


def test_a_memory_of_another_model_is_refused(store: MemoryStore, memory: SupportMemory) -> None:
    with pytest.raises(InputError, match="made by another model"):
        store.put("fork", replace(memory, model="0" * 64))
    assert store.names() == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../x", ".hidden", "a b", "a\0", "x" * 101, "-a", "a\n"]
)
def test_names_that_lead_elsewhere_are_refused(name: str, store: MemoryStore, memory: SupportMemory) -> None:
    with pytest.raises(InputError, match="cannot name a memory"):
        store.put(name, memory)
    for use in (store.get, store.delete):
        with pytest.raises(MissingError):
            use(name)


@given(st.text(max_size=12))
def test_a_name_is_one_file_in_the_folder(name: str) -> None:
    try:
        check_name(name)
    except InputError:
        return
    path = Path("/kept") / f"{name}.safetensors"
    assert path.parent == Path("/kept")
    assert not name.startswith(".")
    assert path.name == f"{name}.safetensors"


def test_they_survive_and_another_process_sees_a_change(tmp_path: Path, memory: SupportMemory) -> None:
    one, other = (MemoryStore(tmp_path, memory.model) for _ in range(2))
    one.put("fork", memory)
    assert same(other.get("fork"), memory)
    changed = replace(memory, prototype=memory.prototype * np.float32(0.5))
    one.put("fork", changed)
    assert same(other.get("fork"), changed)
    one.delete("fork")
    with pytest.raises(MissingError):
        other.get("fork")


def test_a_damaged_one_is_listed_with_what_is_wrong(tmp_path: Path, memory: SupportMemory) -> None:
    store = MemoryStore(tmp_path, memory.model)
    store.put("fork", memory)
    (tmp_path / "spoon.safetensors").write_bytes(memory.to_bytes()[:-3])
    replace(memory, model="0" * 64).save(tmp_path / "knife.safetensors")
    (tmp_path / "notes.txt").write_text("no memory")
    (tmp_path / "folder.safetensors").mkdir()
    listed = {kept.name: kept.error for kept in store.list()}
    assert list(listed) == ["fork", "knife", "spoon"]
    assert listed["fork"] == ""
    assert "made by another model" in listed["knife"]
    assert "not a readable support memory" in listed["spoon"]
    store.delete("spoon")
    assert store.names() == ["fork", "knife"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, memory: SupportMemory) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        MemoryStore(tmp_path / "file" / "kept", memory.model)


def test_many_threads_put_get_and_delete(tmp_path: Path, memory: SupportMemory) -> None:
    store, wrong = MemoryStore(tmp_path, memory.model), []

    def work(number: int) -> None:
        for turn in range(12):
            name = f"m{(number + turn) % 3}"
            try:
                if turn % 3 == 0:
                    store.put(name, memory)
                elif turn % 3 == 1:
                    found = store.get(name)
                    if found.prototype.shape != memory.prototype.shape:
                        wrong.append(name)
                else:
                    store.delete(name)
            except MissingError:
                pass
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(not kept.error for kept in store.list())

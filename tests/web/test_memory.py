"""Support memories in JavaScript and Python: each reads the other's files, and neither takes a damaged one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntre_deploy.conformance.hostile_memories import hostile_memories, rewritten
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.calibration import Calibration
from ntre_deploy.runtime.support import SupportMemory
from tests.forging import assert_same_memory, drawn_memory

Node = Callable[..., Any]

# a name that has to be escaped, twice, and one that tries to look like the digest's place
_NAMES = ["fork", 'Gäbel "7" \\ 日本', '\\"sha256\\":\\"' + "0" * 64]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("calibration", [None, Calibration(0.1, 1.0)])
def test_a_memory_goes_to_javascript_and_back(
    node: Node, tmp_path: Path, name: str, calibration: Calibration | None
) -> None:
    memory = drawn_memory(name, calibration)
    memory.save(tmp_path / "python.safetensors")
    code = """
      const { SupportMemory } = await load("memory");
      const memory = await SupportMemory.fromBytes(read("python.safetensors"));
      write("javascript.safetensors", await memory.toBytes());
      const { name, model, shots, shotScores, calibration } = memory;
      return { name, model, shots, shotScores, calibration };
    """
    found = node(code)
    assert found["name"] == name
    assert (found["model"], found["shots"], found["shotScores"]) == (memory.model, 2, [0, 0.25])
    assert found["calibration"] == (None if calibration is None else calibration._asdict())
    assert_same_memory(SupportMemory.load(tmp_path / "javascript.safetensors"), memory)


def test_one_shot_without_keys_or_scores_goes_there_and_back(node: Node, tmp_path: Path) -> None:
    memory = SupportMemory("x", np.ones(3, np.float32), (np.empty((4, 0), np.float32),), "m")
    memory.save(tmp_path / "in")
    node('write("out", await (await (await load("memory")).SupportMemory.fromBytes(read("in"))).toBytes());')
    assert_same_memory(SupportMemory.load(tmp_path / "out"), memory)


def test_older_versions_are_read_with_a_warning(node: Node, tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"{version}").write_bytes(rewritten(_saved(tmp_path), version=version, sha256=None))
    code = """
      const { SupportMemory } = await load("memory");
      const told = [];
      const warn = (text) => told.push(text);
      for (const name of ["1", "2"]) await SupportMemory.fromBytes(read(name), name, { warn });
      return told;
    """
    told = node(code)
    assert [text.split(",")[0] for text in told] == ["1 is of version 1", "2 is of version 2"]


def test_a_flipped_bit_anywhere_is_an_error_on_both_sides(node: Node, tmp_path: Path) -> None:
    file = _saved(tmp_path)
    places = sorted({*range(0, 8 * len(file), 97), *range(64)})
    (tmp_path / "file").write_bytes(file)
    code = """
      const { SupportMemory } = await load("memory");
      const file = read("file"), found = [];
      for (const place of given) {
        file[place >> 3] ^= 1 << (place & 7);
        found.push((await outcome(() => SupportMemory.fromBytes(file)))[0]);
        file[place >> 3] ^= 1 << (place & 7);
      }
      await SupportMemory.fromBytes(file);
      return found;
    """
    assert set(node(code, places)) == {"InputError"}
    for place in places:
        damaged = bytearray(file)
        damaged[place >> 3] ^= 1 << (place & 7)
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(InputError):
            SupportMemory.load(tmp_path / "damaged")


@pytest.mark.filterwarnings("ignore:.*without a digest")
def test_hostile_files_are_refused_and_say_why(node: Node, tmp_path: Path) -> None:
    file = _saved(tmp_path)
    hostile = hostile_memories(file, drawn_memory())
    for number, (content, _) in enumerate(hostile.values()):
        (tmp_path / f"{number}.bad").write_bytes(content)
    code = """
      const { SupportMemory } = await load("memory");
      const warn = () => {};
      const found = [];
      for (let n = 0; n < given; n++) {
        found.push(await outcome(() => SupportMemory.fromBytes(read(`${n}.bad`), "it", { warn })));
      }
      return found;
    """
    found = dict(zip(hostile, node(code, len(hostile)), strict=True))
    assert {name: kind for name, (kind, _) in found.items() if kind != "InputError"} == {}
    assert all(message.startswith("it ") for _, message in found.values())
    assert [name for name, (_, words) in hostile.items() if not all(word in found[name][1] for word in words)] == []
    for number in range(len(hostile)):
        with pytest.raises(InputError):
            SupportMemory.load(tmp_path / f"{number}.bad")


def _saved(folder: Path) -> bytes:
    drawn_memory().save(folder / "saved.safetensors")
    return (folder / "saved.safetensors").read_bytes()

"""A kit on disk: the same bytes twice, whole or not at all, and nothing of it on trust."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntre_deploy.conformance import writing
from ntre_deploy.conformance.cases import KitError
from ntre_deploy.conformance.hostile_bundles import BAD_NAMES
from ntre_deploy.conformance.kit import KIT, Kit
from ntre_deploy.conformance.netpbm import from_netpbm, repeated, to_netpbm
from ntre_deploy.conformance.running import run_kit
from ntre_deploy.conformance.tolerances import TOLERANCES
from ntre_deploy.conformance.writing import write_kit
from ntre_deploy.errors import InputError

DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    conformance_kit: Path, exported: Path, tmp_path: Path
) -> None:
    write_kit(exported, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(conformance_kit)
    write_kit(exported, tmp_path / "again", seed=1, replace_old=True)
    assert contents(tmp_path / "again") != contents(conformance_kit)
    result = run_kit(Kit.open(tmp_path / "again"), exported, "onnx-cpu", "fp32", threads=1)
    assert [case.name for case in result.cases if not case.passed] == []


def test_every_file_is_listed_used_and_of_a_kind_that_the_page_names(conformance_kit: Path) -> None:
    files = contents(conformance_kit)
    content = json.loads(files.pop(KIT))
    assert list(content["files"]) == sorted(files)
    for path, entry in content["files"].items():
        assert entry == {"size": len(files[path]), "sha256": hashlib.sha256(files[path]).hexdigest()}
    text = json.dumps({key: value for key, value in content.items() if key != "files"})
    # the one that the hostile memories were made of stands for itself
    unused = {path for path in files if f'"{path}"' not in text} - {"memories/hostile-whole.safetensors"}
    assert unused == set()
    pictures = {path.split("/")[0] + Path(path).suffix for path in files}
    kinds = "images.ppm masks.pgm memories.safetensors cases.safetensors cases.pgm files.json files.bin"
    assert pictures == set(kinds.split())
    for path, file in files.items():
        if path.endswith((".ppm", ".pgm")):
            assert re.match(rb"P[56]\s\d+ \d+\s255\s", file), path


def test_a_kit_is_small(conformance_kit: Path) -> None:
    assert sum(map(len, contents(conformance_kit).values())) < 10_000_000


def test_names_kinds_steps_and_needs_are_those_of_the_page(conformance_kit: Path) -> None:
    page = DOCS.read_text()
    cases = json.loads((conformance_kit / KIT).read_text())["cases"]
    assert len({case["name"] for case in cases}) == len(cases)
    assert all(re.fullmatch(r"[a-z0-9-]+", case["name"]) for case in cases)
    known = {"name", "kind", "steps", "tolerances", "needs", "error"}
    for case in cases:
        assert f"`{case['kind']}`" in page
        for word in (*case["steps"], *case.get("needs", ()), *(case.keys() - known)):
            assert f"`{word}`" in page, word
        for operation in case.get("patch", ()):
            assert f"| `{operation['op']}` |" in page
    steps = {step for case in cases for step in case["steps"]}
    assert all(steps == set(tolerances) for tolerances in TOLERANCES.values())


def test_nothing_is_written_where_it_fails(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_stacks", stop)
    with pytest.raises(KeyboardInterrupt):
        write_kit(exported, tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        write_kit(exported, tmp_path / "kit")
    assert (tmp_path / "kit" / "mine").read_text() == "x"


def test_a_bundle_without_fp32_graphs_is_refused(bundle: Path, tmp_path: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    gone = [e["name"] for e in content["files"] if e["role"] in ("support", "query") and e["precision_found"] == "fp32"]
    content["files"] = [entry for entry in content["files"] if entry["name"] not in gone]
    (bundle / "manifest.json").write_text(json.dumps(content))
    for name in gone:
        (bundle / name).unlink()
    with pytest.raises(InputError, match=r"no support file for ONNX in fp32.*--precision fp32"):
        write_kit(bundle, tmp_path / "kit")


@pytest.fixture
def copy(conformance_kit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(conformance_kit, tmp_path / "kit"))


def _edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / KIT).read_text())
    edit(content)
    (folder / KIT).write_text(json.dumps(content))


def _first(folder: Path, count: int) -> Kit:
    """A kit with its first cases alone."""
    kit = Kit.open(folder)
    return dataclasses.replace(kit, content=kit.content | {"cases": kit.content["cases"][:count]})


def test_no_kit_and_another_version_are_refused(copy: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=r"no kit.*--out KIT"):
            Kit.open(folder)
    _edited(copy, lambda content: content.update(version=2))
    with pytest.raises(InputError, match="of version 2; this version of ntre reads 1"):
        Kit.open(copy)
    _edited(copy, lambda content: content.update(format="ntre-bundle"))
    with pytest.raises(InputError, match="not that of a conformance kit"):
        Kit.open(copy)
    for text in ("", "[]", "null", "[" * 100_000, "\xff"):
        (copy / KIT).write_text(text)
        with pytest.raises(InputError):
            Kit.open(copy)


@pytest.mark.parametrize("key", ["bundle", "tolerances", "files", "images", "masks", "cases"])
def test_a_missing_entry_is_refused(key: str, copy: Path) -> None:
    _edited(copy, lambda content: content.pop(key))
    with pytest.raises(InputError, match=f"lacks the entry '{key}'"):
        Kit.open(copy)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "unlisted"])
def test_damage_to_a_file_is_no_difference_but_an_error(damage: str, copy: Path, exported: Path) -> None:
    path = copy / "cases" / "letterbox-1x1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "unlisted":
        _edited(copy, lambda c: c["files"].pop("cases/letterbox-1x1.safetensors"))
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(InputError) as caught:
        run_kit(_first(copy, 1), exported, "onnx-cpu", "fp32", threads=1)
    assert "letterbox-1x1.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_a_hostile_case_is_an_error_too(copy: Path, exported: Path) -> None:
    """Such a case expects bad input, which damage to the kit must not be taken for."""
    kit = Kit.open(copy)
    case = next(c for c in kit.content["cases"] if c["name"] == "hostile-memory-no-json")
    (copy / case["memory"]).write_bytes(b"x")
    with pytest.raises(KitError, match="has been changed"):
        run_kit(dataclasses.replace(kit, content=kit.content | {"cases": [case]}), exported, "onnx-cpu", "fp32")


def test_a_kit_of_another_bundle_is_refused(copy: Path, bundle: Path) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(content | {"name": "other"}))
    with pytest.raises(InputError, match=r"is another one or was changed since.*ntre conformance"):
        run_kit(Kit.open(copy), bundle, "onnx-cpu", "fp32", threads=1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda case: case.pop("image"),
        lambda case: case.pop("steps"),
        lambda case: case.update(kind="dance"),
        lambda case: case.update(image="none"),
        lambda case: case.update(image=["a"]),
        lambda case: case.update(expected="../kit.json"),
        lambda case: case.update(steps=["elsewhere"]),
        lambda case: case.update(needs=3),
        lambda case: case.update(patch=3, kind="bundle"),
        lambda case: case.update(patch=[{"op": "dance", "name": "x"}], kind="bundle"),
        lambda case: case.update(patch=[{"op": "write", "name": "x", "file": "/etc/passwd"}], kind="bundle"),
        *(
            (lambda case, name=name: case.update(patch=[{"op": "folder", "name": name}], kind="bundle"))
            for name in BAD_NAMES[:4]
        ),
    ],
)
def test_a_case_that_cannot_be_is_an_error(edit: Callable[[Any], object], copy: Path, exported: Path) -> None:
    _edited(copy, lambda content: edit(content["cases"][0]))
    with pytest.raises(InputError) as caught:
        run_kit(_first(copy, 1), exported, "onnx-cpu", "fp32", threads=1)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in exported.parent.iterdir()) == [exported.name]


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_pictures_are_repeated_as_the_page_says(h: int, w: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    found = repeated(pixels, height, width)
    assert found.shape == (height, width, 3)
    assert all((found[y, x] == pixels[y % h, x % w]).all() for y in range(height) for x in range(width))
    np.testing.assert_array_equal(from_netpbm(to_netpbm(pixels), "RGB"), pixels)
    np.testing.assert_array_equal(from_netpbm(to_netpbm(pixels[..., 0]), "L"), pixels[..., 0])


@pytest.mark.parametrize("content", [b"", b"P6", b"P6 3 3 255 \0", b"P5 1 1 255 \0", b"P3 1 1 255 1 2 3", b"\x89PNG"])
def test_what_is_no_ppm_is_refused(content: bytes) -> None:
    with pytest.raises(InputError):
        from_netpbm(content, "RGB")

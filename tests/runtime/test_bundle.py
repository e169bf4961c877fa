"""A bundle's folder: nothing in it is taken on trust."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import REFERENCE, SELF_TEST, Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.segmenter import Segmenter

FILES = ["support.onnx", "query.onnx", "support.fp16.onnx", "query.fp16.onnx", SELF_TEST, REFERENCE]


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((bundle / MANIFEST).read_text())
    edit(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


def rehash(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed."""
    data = (bundle / name).read_bytes()

    def edit(content: dict[str, Any]) -> None:
        for entry in content["files"]:
            if entry["name"] == name:
                entry["size"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    edit_manifest(bundle, edit)


def refused(bundle: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)


def test_a_bundle_opens_and_lists_its_files(exported: Path) -> None:
    bundle = Bundle.open(str(exported))
    assert sorted(entry.name for entry in bundle.manifest.files) == sorted(FILES)
    assert bundle.precisions("onnx") == ["fp32", "fp16"]
    assert bundle.precisions("trt") == []
    entry = bundle.entry("query", "onnx", "fp16")
    assert entry is not None
    assert entry.name == "query.fp16.onnx"
    assert bundle.entry("query", "onnx", "int8") is None
    for entry in bundle.manifest.files:
        assert bundle.read(entry) == (exported / entry.name).read_bytes()


def test_every_file_follows_the_umask(exported: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in exported.iterdir()}
    assert set(modes.values()) == {oct(0o666 & ~mask)}, modes


def test_a_precision_counts_only_with_both_of_its_graphs(bundle: Path) -> None:
    def drop(content: dict[str, Any]) -> None:
        content["files"] = [e for e in content["files"] if e["name"] != "support.fp16.onnx"]

    edit_manifest(bundle, drop)
    (bundle / "support.fp16.onnx").unlink()
    assert Bundle.open(bundle).precisions("onnx") == ["fp32"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_changed_byte_is_found_when_the_file_is_read(bundle: Path, name: str, where: float) -> None:
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    opened = Bundle.open(bundle)
    (entry,) = (e for e in opened.manifest.files if e.name == name)
    with pytest.raises(InputError, match=rf"{name} has been changed: its SHA-256"):
        opened.read(entry)
    precision = "fp16" if "fp16" in name else "fp32"
    # loading leaves the reference set to the bench
    use = opened.reference if name == REFERENCE else lambda: Segmenter.load(bundle, "onnx-cpu", precision=precision)
    with pytest.raises(InputError, match=rf"{name} has been changed: its SHA-256"):
        use()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"lacks its file {name}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_refused_before_it_is_read(bundle: Path, name: str) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    refused(bundle, rf"{name} has \d+ bytes where the manifest says \d+")


def test_a_truncated_file_is_refused(bundle: Path) -> None:
    os.truncate(bundle / "query.onnx", 100)
    refused(bundle, "query.onnx has 100 bytes")


@pytest.mark.parametrize("name", ["extra.bin", "query.onnx.data", ".hidden", "ä"])
def test_an_unlisted_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"x")
    refused(bundle, f"holds '{name}', which its manifest does not list")


def test_an_unlisted_folder_is_refused(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    refused(bundle, "holds 'sub'")


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_in_place_of_a_file_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(bundle / name, outside)
    (bundle / name).symlink_to(outside)
    refused(bundle, f"lacks its file {name}")


def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "query.onnx").unlink()
    (bundle / "query.onnx").mkdir()
    refused(bundle, "lacks its file query.onnx")
    (bundle / "query.onnx").rmdir()
    os.mkfifo(bundle / "query.onnx")
    refused(bundle, "lacks its file query.onnx")


def test_a_file_name_that_the_system_cannot_hold_is_refused(bundle: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["files"].append(content["files"][0] | {"name": "x" * 300})

    edit_manifest(bundle, add)
    with pytest.raises(InputError):
        Bundle.open(bundle)


def test_a_name_outside_the_folder_is_not_looked_at(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "query.onnx", tmp_path / "query.onnx")

    def edit(content: dict[str, Any]) -> None:
        for entry in content["files"]:
            if entry["name"] == "query.onnx":
                entry["name"] = "../query.onnx"

    edit_manifest(bundle, edit)
    refused(bundle, "leaves the bundle's folder")


def test_the_self_test_is_an_episode_with_its_answer(exported: Path) -> None:
    test = Bundle.open(exported).self_test()
    assert test.image.dtype == np.uint8
    assert test.labels.shape == test.image.shape[:2]
    assert test.support_mask.shape == test.support_image.shape[:2]
    assert test.support_mask.any()
    assert test.logits.dtype == np.float32
    assert np.isfinite(test.logits).all()


def test_a_bundle_without_a_self_test_is_refused(bundle: Path) -> None:
    def drop(content: dict[str, Any]) -> None:
        content["files"] = [e for e in content["files"] if e["role"] != "self-test"]

    edit_manifest(bundle, drop)
    (bundle / SELF_TEST).unlink()
    with pytest.raises(InputError, match="has no self-test"):
        Bundle.open(bundle).self_test()
    with pytest.raises(InputError, match="has no self-test"):
        Segmenter.load(bundle, "onnx-cpu")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x10\0\0\0\0\0\0\0 this is no json ")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def _lacks(path: Path) -> None:
    tensors = load_file(path)
    del tensors["labels"]
    save_file(tensors, path)


def _more(path: Path) -> None:
    save_file(load_file(path) | {"more": np.zeros(1, np.uint8)}, path)


def _float8(path: Path) -> None:
    header = b'{"image":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")


def _replace(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        save_file(load_file(path) | {name: value}, path)

    damage.__name__ = f"{name}_{value.dtype}_{value.ndim}d"
    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _cut,
        _lacks,
        _more,
        _float8,
        _replace("image", np.zeros((4, 4, 3), np.float32)),
        _replace("image", np.zeros((4, 4), np.uint8)),
        _replace("support_image", np.zeros((4, 4, 3), np.uint8)),
        _replace("support_mask", np.zeros((4, 4, 1), np.uint8)),
        _replace("labels", np.zeros((4, 4), np.uint8)),
        _replace("labels", np.zeros((), np.uint8)),
    ],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_a_damaged_self_test_is_refused_even_with_a_matching_hash(bundle: Path, damage: Callable[[Path], None]) -> None:
    damage(bundle / SELF_TEST)
    rehash(bundle, SELF_TEST)
    with pytest.raises(InputError) as caught:
        Segmenter.load(bundle, "onnx-cpu")
    assert "\n" not in str(caught.value)

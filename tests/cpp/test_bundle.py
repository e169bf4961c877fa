"""Bundles in C++: what is damaged, forged or not there is refused with one clear line, mostly Python's own."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.manifest import parse_manifest
from ntre_deploy.runtime.onnxfile import check_self_contained
from tests.forging import change_manifest, list_anew


def _outcome(abi: Any, bundle: Path, **options: Any) -> str:
    """What the C++ runtime says of a bundle; empty where it is whole."""
    try:
        abi.check(bundle, **options)
    except Exception as error:
        return str(error) if error.kind == "input" else repr(error)  # type: ignore[attr-defined]
    return ""


def _theirs(bundle: Path) -> str:
    """What Python says of it."""
    try:
        opened = Bundle.open(bundle)
        for entry in opened.manifest.files:
            content = opened.read(entry)
            if entry.name.endswith(".onnx"):
                check_self_contained(content, entry.name)
        opened.self_test()
    except InputError as error:
        return str(error)
    return ""


def test_a_whole_bundle_passes(abi: Any, exported: Path) -> None:
    assert _outcome(abi, exported) == ""


_FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema 1": lambda m: m.update(schema=1),
    "schema text": lambda m: m.update(schema="2"),
    "schema 2.0": lambda m: m.update(schema=2.0),
    "schema true": lambda m: m.update(schema=True),
    "no schema": lambda m: m.pop("schema"),
    "format": lambda m: m.update(format="zip"),
    "no model": lambda m: m.pop("model"),
    "files": lambda m: m.update(files={}),
    "a file": lambda m: m.update(files=[[1, None, "it's", {"a": 1.5}]]),
    "twice": lambda m: m["files"].append(m["files"][0]),
    "kinds": lambda m: m["files"].append(m["files"][0] | {"name": "x"}),
    "engines": lambda m: m.update(engines=[{"support": "query.onnx", "query": "query.onnx"}]),
    "size": lambda m: m["files"][0].update(size=-1),
    "size 0": lambda m: m["files"][0].update(size=0),
    "size 1.0": lambda m: m["files"][0].update(size=1.0),
    "huge input": lambda m: m["input"].update(size=10**6),
    "bool": lambda m: m["input"].update(size=True),
    "resize": lambda m: m["input"].update(resize="nearest"),
    "std": lambda m: m["input"].update(std=[1, 0, 1]),
    "mean": lambda m: m["input"].update(mean=[1, 2]),
    "mean text": lambda m: m["input"].update(mean=[1, 2, "3"]),
    "mean large": lambda m: m["input"].update(mean=[1, 2, 1e7]),
    "features": lambda m: m["model"].update(feature_size=[9, "9"]),
    "name": lambda m: m.update(name=["x"] * 100),
    "versions": lambda m: m.update(versions={"python": 3}),
}
_NAMES = ["../query.onnx", "a/b", "a\\b", "C:x", ".hidden", "manifest.json", "Manifest.SIG", "x\n", "", "é", "x" * 201]


def _parsed(path: Path) -> str:
    try:
        parse_manifest(path, path.read_bytes())
    except InputError as error:
        return str(error)
    return ""


def test_a_manifest_that_cannot_be_is_refused_in_pythons_words(abi: Any, exported: Path, tmp_path: Path) -> None:
    whole = json.loads((exported / "manifest.json").read_text())
    forged = {name: copy.deepcopy(whole) for name in (*_FORGED, *_NAMES)}
    for name, change in _FORGED.items():
        change(forged[name])
    for name in _NAMES:
        forged[name]["files"][0]["name"] = name
    for name, content in forged.items():
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        wanted = _parsed(tmp_path / "manifest.json")
        assert wanted, name
        assert _outcome(abi, tmp_path) == wanted, name


@pytest.mark.parametrize(
    "text", [b"\xff{", b"{", b"", b"[" * 100_000, b'{"format": "ntre-bundle", "schema": 2, "files": ' + b"[" * 99_999]
)
def test_what_is_no_json_is_refused(abi: Any, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    assert "is not readable JSON" in _outcome(abi, tmp_path)
    assert "is not readable JSON" in _parsed(tmp_path / "manifest.json")


def test_sizes_that_no_network_has_are_refused(abi: Any, bundle: Path) -> None:
    for key, value in (("prototype_channels", 2**40), ("key_channels", 2**63), ("feature_size", [2**20, 2**20])):
        changed = json.loads((bundle / "manifest.json").read_text())
        changed["model"][key] = value
        (bundle / "manifest.json").write_text(json.dumps(changed))
        assert "is supported" in _outcome(abi, bundle)


def _folder(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("")


def _large(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b" " * (4 << 20) + b"{}")


def _linked(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / f"elsewhere-{name}")
    (bundle / name).symlink_to(bundle.parent / f"elsewhere-{name}")


def _flipped(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)


def _cut(bundle: Path) -> None:
    (bundle / "query.onnx").write_bytes((bundle / "query.onnx").read_bytes()[:-1])


_DAMAGED: dict[str, Callable[[Path], object]] = {
    "none": lambda b: shutil.rmtree(b),
    "no folder": _folder,
    "no manifest": lambda b: (b / "manifest.json").unlink(),
    "large manifest": _large,
    "manifest is a link": lambda b: _linked(b, "manifest.json"),
    "manifest is a folder": lambda b: ((b / "manifest.json").unlink(), (b / "manifest.json").mkdir()),
    "unlisted": lambda b: (b / "more.bin").write_text("x"),
    "unlisted, hidden": lambda b: (b / ".more").write_text("x"),
    "unlisted folder": lambda b: (b / "more's").mkdir(),
    "a file is missing": lambda b: (b / "query.onnx").unlink(),
    "a file is a link": lambda b: _linked(b, "query.onnx"),
    "a file is a pipe": lambda b: ((b / "query.onnx").unlink(), os.mkfifo(b / "query.onnx")),
    "cut": _cut,
    "longer": lambda b: (b / "query.onnx").open("ab").write(b"x"),
    "flipped": lambda b: _flipped(b, "query.onnx"),
    "flipped self-test": lambda b: _flipped(b, "selftest.safetensors"),
    "signature of another size": lambda b: (b / "manifest.sig").write_bytes(b"x" * 95),
    "signature is a folder": lambda b: (b / "manifest.sig").mkdir(),
    "signature is a link": lambda b: (b / "manifest.sig").symlink_to(b / "nowhere"),
    "no self-test": lambda b: (
        change_manifest(b, lambda m: m["files"].remove(next(f for f in m["files"] if f["role"] == "self-test")))
        or (b / "selftest.safetensors").unlink()
    ),
}


@pytest.mark.parametrize("name", _DAMAGED)
def test_what_is_damaged_is_refused_in_pythons_words(abi: Any, bundle: Path, name: str) -> None:
    _DAMAGED[name](bundle)
    found = _outcome(abi, bundle)
    assert found
    assert found == _theirs(bundle)


def test_external_data_and_what_is_no_onnx_are_refused(abi: Any, bundle: Path) -> None:
    model = onnx.load_model(bundle / "query.onnx")
    onnx.save_model(model, bundle / "query.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (bundle / "weights").unlink()
    list_anew(bundle, "query.onnx")
    assert _outcome(abi, bundle) == _theirs(bundle)
    assert "external data files, which are refused" in _outcome(abi, bundle)
    # in a sub-graph of an attribute of a node, where a parser that looks at initialisers alone sees nothing
    tensor = b"\x6a\x02\x0a\x00"
    hidden = tensor
    for field in (5, 5, 1, 7):  # attribute.t, node.attribute, graph.node, model.graph
        hidden = bytes([field << 3 | 2, len(hidden)]) + hidden
    (bundle / "query.onnx").write_bytes(hidden)
    list_anew(bundle, "query.onnx")
    assert "external data files" in _outcome(abi, bundle)
    nested = b""
    for _ in range(70):
        for field in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            nested = bytes([field << 3 | 2]) + _varint(len(nested)) + nested
    nested = b"\x3a" + _varint(len(nested)) + nested
    for content in (b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 20, b"\x0f", b"\x3a\x05\x0a", nested):
        (bundle / "query.onnx").write_bytes(content)
        list_anew(bundle, "query.onnx")
        assert "is not a readable ONNX file" in _outcome(abi, bundle)
        assert "is not a readable ONNX file" in _theirs(bundle)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_self_test_that_is_damaged_is_told(abi: Any, bundle: Path) -> None:
    for content in (b"\x02" + bytes(7) + b"{}", b"", b"x" * 100):
        (bundle / "selftest.safetensors").write_bytes(content or b"\0")
        list_anew(bundle, "selftest.safetensors")
        found = _outcome(abi, bundle)
        assert found.startswith(f"The self-test of {bundle} is damaged: ")
        assert found.endswith("; export the bundle again.")


def test_signatures_are_demanded_and_checked_as_in_python(abi: Any, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from ntre_deploy.signing import make_key, public_file, read_private_key, sign_bundle

    for name in ("mine", "other"):
        make_key(tmp_path / f"{name}.pem")
    public = {name: public_file(tmp_path / f"{name}.pem") for name in ("mine", "other")}

    def both(trusted: list[Path]) -> str:
        wanted = ""
        try:
            Bundle.open(bundle, trusted=trusted)
        except InputError as error:
            wanted = str(error)
        assert _outcome(abi, bundle, trusted=trusted) == wanted
        return wanted

    assert "is not signed, and a signature is demanded" in both([public["mine"]])
    sign_bundle(bundle, read_private_key(tmp_path / "mine.pem"))
    assert both([public["mine"]]) == ""
    assert both([public["other"], public["mine"]]) == ""
    assert "which is not trusted" in both([public["other"]])
    assert "is a private key" in both([tmp_path / "mine.pem"])
    assert "does not exist" in both([tmp_path / "none.pem"])
    rsa = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(rsa)], check=True)
    subprocess.run(["openssl", "pkey", "-in", str(rsa), "-pubout", "-out", str(tmp_path / "rsa.pub.pem")], check=True)
    assert "Ed25519 is expected" in _outcome(abi, bundle, trusted=[tmp_path / "rsa.pub.pem"])
    change_manifest(bundle, lambda m: m.update(name="another"))
    assert "is not of its manifest" in both([public["mine"]])

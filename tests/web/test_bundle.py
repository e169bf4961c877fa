"""Bundles over HTTP: what is damaged, forged or not there is refused with one clear line, before an engine sees it."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from ntre_deploy.conformance.hostile_bundles import BAD_NAMES, FORGED
from tests.forging import change_manifest, list_anew

Node = Callable[..., Any]
Open = Callable[[], list[str]]

_OPEN = """
  const { Bundle } = await load("bundle");
  const { checkSelfContained } = await load("onnxfile");
  return await outcome(async () => {
    const bundle = await Bundle.open(given);
    for (const role of ["support", "query"]) {
      checkSelfContained(await bundle.read(bundle.entry(role, "onnx", "fp32")), role);
    }
    await bundle.selfTest();
  });
"""


@pytest.fixture
def opened(node: Node, pages: ModuleType, bundle: Path) -> Iterator[Open]:
    """What comes of opening the (damaged) bundle from a server: an error's name and message."""
    with pages.serve({"bundles": bundle.parent}) as site:
        yield lambda: node(_OPEN, f"{site.address}/bundles/{bundle.name}")


def test_a_whole_bundle_opens(opened: Open) -> None:
    assert opened() == ["nothing", ""]


def test_a_manifest_that_cannot_be_is_refused(node: Node, exported: Path, tmp_path: Path) -> None:
    whole = json.loads((exported / "manifest.json").read_text())
    forged = {name: copy.deepcopy(whole) for name in (*FORGED, *BAD_NAMES)}
    wanted = {name: words for name, (_, words) in FORGED.items()}
    for name, (change, _) in FORGED.items():
        change(forged[name])
    for name in BAD_NAMES:
        forged[name]["files"][0]["name"] = name
        wanted[name] = "leaves the bundle's folder or is not allowed"
    code = """
      const { parseManifest } = await load("manifest");
      const bytes = (content) => new TextEncoder().encode(JSON.stringify(content));
      const parsed = (content) => outcome(() => parseManifest("here", bytes(content)));
      return await Promise.all(JSON.parse(new TextDecoder().decode(read("forged.json"))).map(parsed));
    """
    # more than a command line holds
    (tmp_path / "forged.json").write_text(json.dumps([whole, *forged.values()]))
    first, *found = node(code)
    assert first == ["nothing", ""]
    for (name, words), (kind, message) in zip(wanted.items(), found, strict=True):
        assert kind == "InputError", name
        assert message.startswith("here")
        assert words in message


def test_no_bundle_and_no_manifest_say_so(opened: Open, bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"\xff{")
    assert "is not readable JSON" in opened()[1]
    (bundle / "manifest.json").write_bytes(b" " * (4 << 20) + b"{}")
    assert "is larger than 4 MiB" in opened()[1]
    shutil.rmtree(bundle)
    kind, message = opened()
    assert kind == "InputError"
    assert "the server says 404" in message


def test_a_flipped_bit_a_cut_and_an_addition_are_found(opened: Open, bundle: Path) -> None:
    whole = (bundle / "query.onnx").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    found = {}
    for name, content in {"flip": bytes(flipped), "cut": whole[:-1], "more": whole + b"\0"}.items():
        (bundle / "query.onnx").write_bytes(content)
        kind, found[name] = opened()
        assert kind == "InputError"
    assert "has been changed: its SHA-256 is not the manifest's" in found["flip"]
    assert f"has {len(whole) - 1} bytes where the manifest says {len(whole)}" in found["cut"]
    assert f"has more bytes where the manifest says {len(whole)}" in found["more"]


def test_external_data_and_what_is_no_onnx_are_refused(opened: Open, bundle: Path) -> None:
    model = onnx.load_model(bundle / "query.onnx")
    onnx.save_model(model, bundle / "query.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (bundle / "weights").unlink()
    list_anew(bundle, "query.onnx")
    kind, message = opened()
    assert kind == "InputError"
    assert "external data files, which are refused" in message
    for content in (b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 20, b"\x0f", b"\x3a\x05\x0a"):
        (bundle / "query.onnx").write_bytes(content)
        list_anew(bundle, "query.onnx")
        assert "is not a readable ONNX file" in opened()[1]


def test_a_self_test_that_is_damaged_or_not_there_is_told(opened: Open, bundle: Path) -> None:
    (bundle / "selftest.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    list_anew(bundle, "selftest.safetensors")
    assert "is damaged" in opened()[1]
    change_manifest(bundle, lambda m: m["files"].remove(next(f for f in m["files"] if f["role"] == "self-test")))
    assert "has no self-test" in opened()[1]


def test_a_server_that_is_not_there_is_told(node: Node, pages: ModuleType) -> None:
    with pages.serve({}) as site:
        gone = site.address
    kind, message = node(_OPEN, f"{gone}/x")
    assert kind == "InputError"
    assert message.startswith(f"{gone}/x/manifest.json cannot be read")

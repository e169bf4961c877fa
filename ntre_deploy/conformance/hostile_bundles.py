"""Bundles that must be refused, and unusual ones that must not, as patches of a whole one."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ntre_deploy.conformance import hostile_onnx
from ntre_deploy.errors import InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.manifest import MANIFEST
from ntre_deploy.runtime.signature import SIGNATURE

# file names that leave a folder, or do so on another system
BAD_NAMES = (
    *("../query.onnx", "..", ".", "/etc/passwd", "a/b", "a/../b", "./query.onnx", "query.onnx/", "..\\x", "a\\b"),
    *("\\\\host\\share", "C:x", "query.onnx:stream", "a\0b", "", "a\nb", "x\n", ".hidden", "é", "x" * 201),
    *(MANIFEST, "Manifest.JSON", SIGNATURE, "Manifest.SIG"),
)
Manifest = dict[str, Any]
Edit = Callable[[Manifest], object]


class Patched(NamedTuple):
    """A patch of a bundle; `files` holds the content of what it writes.

    Attributes:
        operations: as docs/conformance.md describes them; `file` is a key of `files`.
        error: `input`, `engine`, or empty for a bundle that must load.
        words: of the message, in every runtime.
        needs: see docs/conformance.md.
    """

    name: str
    operations: list[dict[str, Any]]
    files: Mapping[str, bytes] = {}
    error: str = "input"
    words: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


# what a manifest must not say, and words of the refusal that are the same in every runtime
FORGED: dict[str, tuple[Edit, str]] = {
    "schema-1": (lambda m: m.update(schema=1), "schema version 1; this version of ntre reads 2"),
    "schema-3": (lambda m: m.update(schema=3), "schema version 3; this version of ntre reads 2"),
    "schema-text": (lambda m: m.update(schema="2"), "has schema version"),
    "no-schema": (lambda m: m.pop("schema"), "has schema version"),
    "format": (lambda m: m.update(format="zip"), "is not the manifest of an ntre bundle"),
    "no-format": (lambda m: m.pop("format"), "is not the manifest of an ntre bundle"),
    "no-model": (lambda m: m.pop("model"), "lacks the entry 'model'"),
    "no-input": (lambda m: m.pop("input"), "lacks the entry 'input'"),
    "no-files": (lambda m: m.pop("files"), "lacks the entry 'files'"),
    "no-mean": (lambda m: m["input"].pop("mean"), "lacks the entry 'mean'"),
    "no-sha256": (lambda m: m["files"][0].pop("sha256"), "lacks the entry 'sha256'"),
    "files-an-object": (lambda m: m.update(files={}), "files is {} where a list is expected"),
    "file-a-text": (lambda m: m["files"].append("x"), "a file is"),
    "model-a-list": (lambda m: m.update(model=[]), "model is [] where an object is expected"),
    "listed-twice": (lambda m: m["files"].append(m["files"][0]), "a file is listed twice"),
    "same-kind": (lambda m: m["files"].append(m["files"][0] | {"name": "x"}), "the same role, engine and precision"),
    "size-negative": (lambda m: m["files"][0].update(size=-1), "size is -1 where a whole number from 1 on"),
    "size-zero": (lambda m: m["files"][0].update(size=0), "size is 0 where a whole number from 1 on"),
    "size-broken": (lambda m: m["files"][0].update(size=7.5), "size is 7.5 where a whole number from 1 on"),
    "size-text": (lambda m: m["files"][0].update(size="7"), "where a whole number from 1 on"),
    "input-huge": (lambda m: m["input"].update(size=10**6), "at most 4097 is supported"),
    "input-true": (lambda m: m["input"].update(size=True), "where a whole number from 1 on"),
    "channels": (lambda m: m["input"].update(channels="BGR"), "which this version of ntre does not know"),
    "scale": (lambda m: m["input"].update(scale="1/255"), "which this version of ntre does not know"),
    "protocol": (lambda m: m["input"].update(protocol="fast"), "which this version of ntre does not know"),
    "resize": (lambda m: m["input"].update(resize="nearest"), "which this version of ntre does not know"),
    "std-zero": (lambda m: m["input"].update(std=[1, 0, 1]), "std must be above 0"),
    "std-negative": (lambda m: m["input"].update(std=[1, -1, 1]), "std must be above 0"),
    "mean-of-two": (lambda m: m["input"].update(mean=[1, 2]), "where a list of 3 is expected"),
    "mean-of-texts": (lambda m: m["input"].update(mean=["1", "2", "3"]), "where a number is expected"),
    "mean-huge": (lambda m: m["input"].update(mean=[1, 2, 1e7]), "where a number is expected"),
    "mean-true": (lambda m: m["input"].update(mean=[1, 2, True]), "where a number is expected"),
    "features-text": (lambda m: m["model"].update(feature_size=[9, "9"]), "feature_size is"),
    "features-of-one": (lambda m: m["model"].update(feature_size=[9]), "where a list of 2 is expected"),
    "id-a-number": (lambda m: m["model"].update(id=7), "model.id is 7 where a text is expected"),
    "name-a-number": (lambda m: m.update(name=7), "name is 7 where a text is expected"),
    "role-null": (lambda m: m["files"][0].update(role=None), "where a text is expected"),
}

# what a manifest may say beside what is known
UNUSUAL: dict[str, Edit] = {
    "unknown-entries": lambda m: m.update(later={"a": [1, None]}, files=[f | {"later": 1} for f in m["files"]]),
    # an engine that compiles graphs by itself finds none without its entry
    "no-engines": lambda m: None if m.get("engines") else m.pop("engines", None),
    "another-name": lambda m: m.update(name='Gäbel "7" \\ 日本'),
    "other-versions": lambda m: m.update(versions={"python": "4.0"}),
    "no-verification": lambda m: m.update(verification=[]),
}


def patched_bundles(bundle: Bundle) -> Iterator[Patched]:
    """Every patch of a kit.

    Raises:
        InputError: the bundle has no ONNX graphs in fp32, or no self-test.
    """
    yield from _manifests(bundle)
    yield from _files(bundle)
    yield from _folders(bundle)
    yield from _graphs(bundle)
    yield from _self_tests(bundle)


def fp32_files(bundle: Bundle) -> dict[str, str]:
    """Names of the files that a load in fp32 reads: `support`, `query` and `self-test`.

    Raises:
        InputError: one is not there.
    """
    entries = {"support": bundle.entry("support", "onnx", "fp32"), "query": bundle.entry("query", "onnx", "fp32")}
    entries["self-test"] = bundle.entry("self-test")
    missing = [role for role, entry in entries.items() if entry is None]
    if missing:
        raise InputError(
            f"{bundle.folder} has no {missing[0]} file for ONNX in fp32, which a kit is made of; export it with "
            "`--engine onnx --precision fp32`."
        )
    return {role: entry.name for role, entry in entries.items() if entry is not None}


def _manifest(bundle: Bundle, edit: Edit | None = None) -> bytes:
    content = json.loads(bundle.text)
    if edit is not None:
        edit(content)
    return json.dumps(content).encode()


def _write(name: str) -> dict[str, Any]:
    return {"op": "write", "name": name, "file": name}


def _with_manifest(bundle: Bundle, name: str, edit: Edit, **more: Any) -> Patched:
    return Patched(name, [_write(MANIFEST)], {MANIFEST: _manifest(bundle, edit)}, **more)


def _manifests(bundle: Bundle) -> Iterator[Patched]:
    for name, (edit, told) in FORGED.items():
        yield _with_manifest(bundle, f"manifest-{name}", edit, words=(told,))
    for name, edit in UNUSUAL.items():
        if name == "no-engines" and bundle.manifest.engines:
            continue  # a runtime of such an engine would rightly find none
        yield _with_manifest(bundle, f"manifest-{name}", edit, error="")
    for number, bad in enumerate(BAD_NAMES):

        def rename(manifest: Manifest, bad: str = bad) -> None:
            manifest["files"][0]["name"] = bad

        words = ("leaves the bundle's folder or is not allowed",)
        yield _with_manifest(bundle, f"name-{number}", rename, words=words)
    whole = _manifest(bundle)
    texts = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "list": b"[]",
        "null": b"null",
        "not-utf8": b"\xff{",
        "nested": b"[" * 100_000 + b"]" * 100_000,
        "trailing-text": whole + b"x",
    }
    for name, text in texts.items():
        yield Patched(f"manifest-{name}", [_write(MANIFEST)], {MANIFEST: text})
    size = (4 << 20) + 1
    yield Patched(
        "manifest-too-large", [{"op": "resize", "name": MANIFEST, "size": size}], words=("is larger than 4 MiB",)
    )
    yield Patched("manifest-removed", [{"op": "remove", "name": MANIFEST}])


def _files(bundle: Bundle) -> Iterator[Patched]:
    for role, file in fp32_files(bundle).items():
        size = bundle.file(file).size
        said = (f"where the manifest says {size}",)
        yield Patched(f"{role}-removed", [{"op": "remove", "name": file}], words=(file,))
        yield Patched(f"{role}-longer", [{"op": "append", "name": file, "hex": "00"}], words=said)
        yield Patched(f"{role}-cut", [{"op": "resize", "name": file, "size": size - 1}], words=said)
        yield Patched(f"{role}-empty", [{"op": "resize", "name": file, "size": 0}], words=said)
        content = bundle.read(bundle.file(file))
        for place, at in {"first": 0, "middle": size // 2, "last": size - 1}.items():
            flip = {"op": "overwrite", "name": file, "at": at, "hex": f"{content[at] ^ 1:02x}"}
            yield Patched(f"{role}-flipped-{place}", [flip], words=("has been changed: its SHA-256",))

        def shout(manifest: Manifest, file: str = file) -> None:
            entry = _listed(manifest, file)
            entry["sha256"] = entry["sha256"].upper()

        words = ("has been changed: its SHA-256",)
        # the digits 0 to 9 alone would be the same in capitals
        yield _with_manifest(bundle, f"{role}-sha256-in-capitals", shout, words=words)


def _folders(bundle: Bundle) -> Iterator[Patched]:
    unlisted = ("which its manifest does not list",)
    for name, file in {"file": "extra.bin", "hidden-file": ".hidden", "weights": "query.onnx.data"}.items():
        yield Patched(f"unlisted-{name}", [_write(file)], {file: b"x"}, words=unlisted, needs=("folder",))
    yield Patched("unlisted-folder", [{"op": "folder", "name": "sub"}], words=unlisted, needs=("folder",))
    for role, file in fp32_files(bundle).items():
        words = (f"lacks its file {file}",)
        yield Patched(f"{role}-a-folder", [{"op": "folder", "name": file}], words=words, needs=("folder",))
        yield Patched(f"{role}-a-link", [{"op": "link", "name": file}], words=words, needs=("folder", "link"))
    yield Patched("manifest-a-link", [{"op": "link", "name": MANIFEST}], needs=("folder", "link"))
    yield Patched("manifest-a-folder", [{"op": "folder", "name": MANIFEST}], needs=("folder",))
    signature = {SIGNATURE: b"short"}
    yield Patched("signature-too-short", [_write(SIGNATURE)], signature, needs=("folder", "signature"))
    link = [_write(SIGNATURE), {"op": "link", "name": SIGNATURE}]
    yield Patched("signature-a-link", link, {SIGNATURE: bytes(96)}, needs=("folder", "link", "signature"))
    others = [e.name for e in bundle.manifest.files if e.name not in fp32_files(bundle).values()]
    unused = [e.name for e in bundle.manifest.files if e.name in others and e.role == "reference"]
    if unused:
        # what nothing reads may be left out, where the manifest says so
        drop = _manifest(bundle, lambda m: m["files"].remove(_listed(m, unused[0])))
        operations = [{"op": "remove", "name": unused[0]}, _write(MANIFEST)]
        yield Patched("no-reference-set", operations, {MANIFEST: drop}, error="")


def _listed(manifest: Manifest, name: str) -> dict[str, Any]:
    return next(entry for entry in manifest["files"] if entry["name"] == name)


def _replaced(bundle: Bundle, name: str, file: str, content: bytes, **more: Any) -> Patched:
    """A file in place of another, about which the manifest is right."""

    def edit(manifest: Manifest) -> None:
        _listed(manifest, file).update(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    files = {file: content, MANIFEST: _manifest(bundle, edit)}
    return Patched(name, [_write(file), _write(MANIFEST)], files, **more)


def _graphs(bundle: Bundle) -> Iterator[Patched]:
    names = fp32_files(bundle)
    far, unreadable = ("external data files, which are refused",), ("is not a readable ONNX file",)
    for name, content in hostile_onnx.external():
        for role in ("support", "query") if name == "initializer" else ("query",):
            yield _replaced(bundle, f"{role}-external-{name}", names[role], content, words=far)
    for name, content in hostile_onnx.unreadable():
        yield _replaced(bundle, f"query-{name}", names["query"], content, words=unreadable)
    for name, content in hostile_onnx.unusable():
        for role in ("support", "query"):
            yield _replaced(bundle, f"{role}-{name}", names[role], content, error="engine")


def _self_tests(bundle: Bundle) -> Iterator[Patched]:
    file = fp32_files(bundle)["self-test"]
    whole = bundle.read(bundle.file(file))
    arrays: dict[str, NDArray[Any]] = load_tensors(whole)
    labels, logits = arrays["labels"], arrays["logits"]
    small, float8 = np.zeros((4, 4, 3), np.uint8), b'{"image":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    damaged = {
        "no-json": b"\x10\0\0\0\0\0\0\0 this is no json ",
        "cut-off": whole[:-5],
        "nothing-in-it": b"\x02\0\0\0\0\0\0\0{}",
        "float8": len(float8).to_bytes(8, "little") + float8 + b"\0",
        "no-labels": save_tensors({k: v for k, v in arrays.items() if k != "labels"}),
        "image-of-floats": save_tensors(arrays | {"image": np.zeros((4, 4, 3), np.float32)}),
        "image-of-one-channel": save_tensors(arrays | {"image": np.zeros((4, 4), np.uint8)}),
        "support-too-small": save_tensors(arrays | {"support_image": small}),
        "mask-of-three-axes": save_tensors(arrays | {"support_mask": small[..., :1].copy()}),
        "mask-empty": save_tensors(arrays | {"support_mask": np.zeros_like(arrays["support_mask"])}),
        "labels-too-few": save_tensors(arrays | {"labels": np.zeros((4, 4), np.uint8)}),
        "labels-of-no-axis": save_tensors(arrays | {"labels": np.zeros((), np.uint8)}),
    }
    for name, content in damaged.items():
        yield _replaced(bundle, f"self-test-{name}", file, content)
    fails = ("fails the bundle's self-test",)
    wrong = {"labels": 1 - labels, "logits": logits * 2, "nan": np.full_like(logits, np.nan)}
    for name, values in wrong.items():
        content = save_tensors(arrays | {"labels" if name == "labels" else "logits": values})
        yield _replaced(bundle, f"self-test-wrong-{name}", file, content, error="engine", words=fails)
    none = _manifest(bundle, lambda m: m["files"].remove(_listed(m, file)))
    operations = [{"op": "remove", "name": file}, _write(MANIFEST)]
    yield Patched("self-test-missing", operations, {MANIFEST: none}, words=("has no self-test",))

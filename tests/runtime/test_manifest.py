"""The manifest as the hostile file that it may be."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntre_deploy.errors import InputError
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.manifest import MANIFEST, EngineEntry, FileEntry, Manifest, ModelEntry, read_manifest

WHOLE = Manifest(
    name="tiny",
    model=ModelEntry(
        id="474149e4c0db5523",
        config={"backbone": "vgg16", "bins": [9, 4]},
        checkpoint_sha256="ab" * 32,
        origin={"source": "random:3"},
        prototype_channels=16,
        key_channels=512,
        feature_size=(9, 7),
    ),
    input=InputSpec(65, (1.5, 2.0, 3.0), (4.0, 5.0, 6.0)),
    files=(
        FileEntry("support.onnx", "support", "onnx", "fp16", "fp32", 12, "cd" * 32, {"opset": 18}),
        FileEntry("query.onnx", "query", "onnx", "fp16", "fp32", 12, "cd" * 32, {"opset": 18}),
        FileEntry("selftest.safetensors", "self-test", "", "", "", 1, "ef" * 32),
    ),
    verification=[{"engine": "onnx-cpu", "cases": [{"logits": 1e-6}]}],
    versions={"torch": "2.13.0"},
    engines=(EngineEntry("openvino", "bf16", "bf16", "support.onnx", "query.onnx", {"version": "2026.4"}),),
)
CONTENT: dict[str, Any] = json.loads(WHOLE.to_json())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every entry that the schema names; what the JSON-valued entries hold inside is free."""
    if path and path[-1] in ("config", "origin", "details", "verification", "versions"):
        yield path
    elif isinstance(value, dict):
        if path:
            yield path
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif path in (("files",), ("engines",)):
        yield path
        yield from leaves(value[0], (*path, 0))
    else:
        yield path


# said for people, and not read back
_INFORMATION = {"channels", "scale", "protocol", "resize"}
REQUIRED = [path for path in leaves(CONTENT) if path[-1] not in _INFORMATION and path[-1] != 0]
NUMBERS = [path for path in REQUIRED if path[-1] in ("prototype_channels", "key_channels", "size")]


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    at: Any = content
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


def refused(folder: Path, content: Any) -> str:
    """Write, read, and return the message of the refusal, which must be one line that names the file."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InputError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(WHOLE.to_json())
    assert read_manifest(tmp_path) == WHOLE


def test_a_missing_or_wrong_folder_is_refused_with_the_next_step(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="ntre export CHECKPOINT"):
            read_manifest(folder)
    (tmp_path / "file").write_text(WHOLE.to_json())
    with pytest.raises(InputError, match="not a folder"):
        read_manifest(tmp_path / "file")
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(InputError, match="no bundle"):
        read_manifest(tmp_path)


def test_a_path_that_the_system_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError):
        read_manifest(Path("x" * 5000))


@pytest.mark.parametrize("path", [p for p in REQUIRED if p != ("engines",)], ids=dotted)
def test_a_manifest_that_lacks_an_entry_is_refused(path: tuple[Any, ...], tmp_path: Path) -> None:
    refused(tmp_path, changed(path, None))


def test_a_manifest_from_before_engine_entries_has_none(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(changed(("engines",), None)))
    assert read_manifest(tmp_path) == dataclasses.replace(WHOLE, engines=())


def test_the_same_engine_and_precision_twice_is_refused(tmp_path: Path) -> None:
    assert "two engines" in refused(tmp_path, changed(("engines",), CONTENT["engines"] * 2))


# what is no text, no whole number, no list and no object of the schema
_WRONG: dict[type, list[Any]] = {
    str: [7, True, [], {}, ["a"]],
    int: ["7", 7.5, True, 0, -1, [], {}, 1e400],
    list: [7, "abc", {}, {"a": 1}, True],
    dict: [7, "abc", [], [["a", "b"]], True],
}


@pytest.mark.parametrize("path", REQUIRED, ids=dotted)
def test_a_value_of_the_wrong_type_is_refused(path: tuple[Any, ...], tmp_path: Path) -> None:
    at: Any = CONTENT
    for step in path:
        at = at[step]
    for wrong in _WRONG[type(at)]:
        (tmp_path / MANIFEST).write_text(json.dumps(changed(path, wrong)))
        try:
            read_manifest(tmp_path)
        except InputError as error:
            message = str(error)
        else:
            pytest.fail(f"{wrong!r} was accepted as {dotted(path)}")
        assert "\n" not in message


@pytest.mark.parametrize("path", REQUIRED, ids=dotted)
def test_null_is_refused(path: tuple[Any, ...], tmp_path: Path) -> None:
    content = changed(path, 0)
    at = content
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = None
    refused(tmp_path, content)


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        [1, 2, 3, 4],
        ["a", "b", "c"],
        [[1], 2, 3],
        pytest.param([float("nan")] * 3, id="nan"),
        pytest.param([float("inf")] * 3, id="inf"),
        pytest.param("123", id="digits"),
        pytest.param([10**400, 1, 1], id="huge"),
    ],
)
def test_mean_and_std_are_three_finite_numbers(key: str, value: Any, tmp_path: Path) -> None:
    refused(tmp_path, changed(("input", key), value))


@pytest.mark.parametrize("value", [[1, 0, 1], [1, -1, 1]])
def test_a_std_that_is_not_above_zero_is_refused(value: list[int], tmp_path: Path) -> None:
    assert "std must be above 0" in refused(tmp_path, changed(("input", "std"), value))


@pytest.mark.parametrize("value", [[9], [9, 9, 9], [9, 0], [9, "9"], [9.0, 9], "99"])
def test_a_feature_size_is_two_whole_numbers(value: Any, tmp_path: Path) -> None:
    refused(tmp_path, changed(("model", "feature_size"), value))


def test_an_input_size_that_no_network_has_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, changed(("input", "size"), 10**7))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a/../b",
        "./support.onnx",
        "support.onnx/",
        "..\\x",
        "a\\b",
        "\\\\host\\share",
        "C:x",
        "C:\\x",
        "support.onnx:stream",
        "a\0b",
        MANIFEST,
        "",
        "a\nb",
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    assert "leaves the bundle's folder or is not allowed" in refused(tmp_path, changed(("files", 0, "name"), name))


def test_a_file_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    assert "listed twice" in refused(tmp_path, changed(("files", 1, "name"), "support.onnx"))


@pytest.mark.parametrize("schema", [0, 1, 3, "2", 99, [2]])
def test_another_schema_is_refused_with_what_to_do(schema: Any, tmp_path: Path) -> None:
    message = refused(tmp_path, changed(("schema",), schema))
    assert f"schema version {schema!r}" in message
    assert "export the checkpoint again" in message


@pytest.mark.parametrize("value", ["other", "", None, 1, ["ntre-bundle"]])
def test_another_format_is_refused(value: Any, tmp_path: Path) -> None:
    assert "not the manifest of an ntre bundle" in refused(tmp_path, changed(("format",), value))


@pytest.mark.parametrize("text", ["", "[]", "null", "1", '"ntre-bundle"', "{}"])
def test_json_that_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    refused(tmp_path, text)


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("where", ["root", "name", "config"])
def test_deeply_nested_json_is_refused_or_read(depth: int, where: str, tmp_path: Path) -> None:
    nested = "[" * depth + "]" * depth
    text = nested if where == "root" else WHOLE.to_json().replace('"tiny"', nested)
    if where == "config":
        text = WHOLE.to_json().replace('"vgg16"', nested)
        if depth == 500:  # the configuration is free, and Python can hold this much
            (tmp_path / MANIFEST).write_text(text)
            assert read_manifest(tmp_path).name == "tiny"
            return
    refused(tmp_path, text)


def test_a_manifest_of_many_megabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take a terabyte of memory
    with pytest.raises(InputError, match="larger than 4 MiB"):
        read_manifest(tmp_path)


@given(st.integers(0, len(WHOLE.to_json()) - 2))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_manifest_is_refused(tmp_path: Path, length: int) -> None:
    refused(tmp_path, WHOLE.to_json()[:length])


@given(st.integers(0, len(WHOLE.to_json()) - 1), st.integers(0, 255))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_gives_a_manifest_or_an_input_error(tmp_path: Path, at: int, byte: int) -> None:
    content = bytearray(WHOLE.to_json().encode())
    content[at] = byte
    (tmp_path / MANIFEST).write_bytes(content)
    message = ""
    try:
        assert isinstance(read_manifest(tmp_path), Manifest)
    except InputError as error:
        message = str(error)
    assert "\n" not in message

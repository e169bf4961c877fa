"""A look into an ONNX file without the onnx package: does it refer to data outside itself?

A file with external data would make an engine open other files, named by the model, that no hash covers.
"""

from collections.abc import Iterator

from ntre_deploy.errors import InputError

# ONNX protobuf field numbers: message -> {field: sub-message}; "tensor" is where external data is declared
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 64


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError("varint is too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        if tag >> 32:
            # protobuf drops the upper bits, and would see another field than this does
            raise IndexError("tag is too long")
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise IndexError("field runs past the end")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise IndexError("field runs past the end")
        else:
            raise IndexError(f"wire type {kind}")


def _external(data: memoryview, kind: str, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        raise IndexError("nested too deep")
    if kind == "tensor":
        return any(
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0) for number, value in _fields(data)
        )
    children = _CHILDREN[kind]
    return any(
        isinstance(value, memoryview) and number in children and _external(value, children[number], depth + 1)
        for number, value in _fields(data)
    )


def check_self_contained(content: bytes, name: str) -> None:
    """Check that an ONNX file holds all of its weights.

    Raises:
        InputError: it refers to external data, or is not ONNX.
    """
    try:
        external = _external(memoryview(content), "model")
    except IndexError as error:
        raise InputError(f"{name} is not a readable ONNX file ({error}); export the bundle again.") from error
    if external:
        raise InputError(f"{name} keeps weights in external data files, which are refused; export it as a single file.")

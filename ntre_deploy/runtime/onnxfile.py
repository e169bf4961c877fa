"""A look into an ONNX file without the onnx package: does it refer to data outside itself, or to unsigned integers?

A file with external data would make an engine open other files, named by the model, that no hash covers.  Unsigned
activations are for CPUs; TensorRT does not take them.
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
# of a model, a graph and a tensor; the type is ONNX's number of it
_GRAPH, _NODE, _INITIALIZER, _OUTPUT, _TENSOR_TYPE, _TENSOR_NAME, _UINT8 = 7, 1, 5, 12, 2, 8, 2


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


def unsigned_activations(content: bytes) -> list[str]:
    """Names of the nodes that quantise to uint8 or read it, in an ONNX file's own graph.

    Raises:
        InputError: it is not ONNX, or has no outputs.
    """
    try:
        graphs = [value for number, value in _fields(memoryview(content)) if number == _GRAPH]
        parts = [part for graph in graphs if isinstance(graph, memoryview) for part in _fields(graph)]
        kinds: dict[bytes, int] = {}
        for number, value in parts:
            if number == _INITIALIZER and isinstance(value, memoryview):
                tensor = dict(_fields(value))
                kinds[_text(tensor.get(_TENSOR_NAME))] = int(tensor.get(_TENSOR_TYPE, 0))
        nodes = [_Node(value) for number, value in parts if number == _NODE and isinstance(value, memoryview)]
    except IndexError as error:
        raise InputError(f"This is not a readable ONNX file ({error}).") from error
    if not any(number == _OUTPUT for number, _ in parts):  # an empty file is a valid message
        raise InputError("This is not a readable ONNX file: it has no outputs.")
    return [node.name.decode(errors="replace") for node in nodes if node.zero_type(kinds) == _UINT8]


class _Node:
    """A node's name, operator, inputs, and the type that it quantises to where it tells."""

    def __init__(self, data: memoryview) -> None:
        self.name = self.operator = b""
        self.inputs: list[bytes] = []
        self.declared = 0
        for number, value in _fields(data):
            if number == 1:
                self.inputs.append(_text(value))
            elif number == 3:
                self.name = _text(value)
            elif number == 4:
                self.operator = _text(value)
            elif number == 5 and isinstance(value, memoryview):
                attribute = dict(_fields(value))
                if _text(attribute.get(1)) == b"output_dtype":
                    self.declared = int(attribute.get(3, 0))

    def zero_type(self, kinds: dict[bytes, int]) -> int:
        """Type of the zero point of a (de)quantising node, 0 for others and where it is not known."""
        if self.operator not in (b"QuantizeLinear", b"DequantizeLinear"):
            return 0
        if len(self.inputs) > 2 and self.inputs[2]:
            return kinds.get(self.inputs[2], 0)
        # without a zero point, the standard says uint8
        return kinds.get(self.inputs[0], 0) if self.operator == b"DequantizeLinear" else self.declared or _UINT8


def _text(value: object) -> bytes:
    return bytes(value) if isinstance(value, memoryview) else b""


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

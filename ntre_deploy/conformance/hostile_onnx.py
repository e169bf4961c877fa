"""ONNX files that hold too little or reach outside themselves, byte by byte: no package that writes ONNX is needed."""

from collections.abc import Iterator


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, content: bytes) -> bytes:
    """A field that holds a message, a text or bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field that holds an integer."""
    return varint(field << 3) + varint(value)


# TensorProto: dims 1, data_type 2, name 8, external_data 13 (key 1, value 2), data_location 14
_TENSOR = number(1, 1) + number(2, 1) + message(8, b"w")
_ENTRY = message(13, message(1, b"location") + message(2, b"../../etc/passwd"))
_FAR = _TENSOR + _ENTRY + number(14, 1)


def _inside(*fields: int, tensor: bytes = _FAR) -> bytes:
    """A tensor in nested messages, the outermost field first."""
    for field in reversed(fields):
        tensor = message(field, tensor)
    return tensor


def external() -> Iterator[tuple[str, bytes]]:
    """Models whose weights lie in another file, wherever ONNX has a place for a tensor."""
    # ModelProto: graph 7, training_info 20, functions 25; GraphProto: node 1, initializer 5, sparse_initializer 15;
    # NodeProto: attribute 5; AttributeProto: t 5, g 6, tensors 10, graphs 11, sparse_tensor 22; SparseTensorProto:
    # values 1, indices 2; FunctionProto: node 7; TrainingInfoProto: initialization 1
    yield "initializer", _inside(7, 5)
    yield "location-alone", _inside(7, 5, tensor=_TENSOR + number(14, 1))
    yield "entry-alone", _inside(7, 5, tensor=_TENSOR + _ENTRY)
    yield "second-initializer", message(7, message(5, _TENSOR) + message(5, _FAR))
    yield "attribute", _inside(7, 1, 5, 5)
    yield "attribute-list", _inside(7, 1, 5, 10)
    yield "sub-graph", _inside(7, 1, 5, 6, 5)
    yield "sub-graph-list", _inside(7, 1, 5, 11, 5)
    yield "sparse-values", _inside(7, 15, 1)
    yield "sparse-indices", _inside(7, 15, 2)
    yield "sparse-attribute", _inside(7, 1, 5, 22, 1)
    yield "function", _inside(25, 7, 5, 5)
    yield "training", _inside(20, 1, 5)
    # protobuf merges two graphs of one model
    yield "second-graph", message(7, b"") + _inside(7, 5)


def unreadable() -> Iterator[tuple[str, bytes]]:
    """Bytes that are no message of protobuf."""
    yield "field-past-the-end", b"\x0a\xff\xff\xff\xff\x7f"
    yield "varint-too-long", b"\xff" * 20
    yield "wire-type", b"\x0f"
    yield "cut-inside", b"\x3a\x05\x0a"
    yield "tag-too-long", varint(1 << 32 | 7 << 3 | 2) + b"\x00"
    yield "nested-too-deep", _deep(100)


def _deep(levels: int) -> bytes:
    content = b""
    for _ in range(levels):
        content = message(1, message(5, message(6, content)))
    return message(7, content)


def unusable() -> Iterator[tuple[str, bytes]]:
    """Messages that no engine can run."""
    yield "version-alone", number(1, 8)
    yield "empty-graph", number(1, 8) + message(8, number(2, 18)) + message(7, message(2, b"g"))

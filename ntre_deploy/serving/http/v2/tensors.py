"""Tensors of the open inference protocol, as JSON or as bytes behind it.

The extension for binary tensors is Triton's (docs/protocol/extension_binary_data.md in triton-inference-server/server).
"""

import base64
import binascii
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import InputError, TooLargeError, one_of

# of this server's tensors alone
_KINDS: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32}
_MOST_DIMENSIONS = 8
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class Tensor:
    """An input.

    Attributes:
        data: an array of `shape`; the values of a BYTES tensor in a list, row after row.
        text: whether BYTES came as strings of JSON, which files are base64 in.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8] | list[bytes]
    text: bool = False


@dataclass(frozen=True)
class Asked:
    """A request for inference.

    Attributes:
        id: the client's, or empty.
        inputs: by name.
        outputs: names that were asked for, each with whether as bytes; None for all.
        binary: whether outputs come as bytes where they do not say so themselves.
    """

    id: str
    inputs: dict[str, Tensor]
    outputs: dict[str, bool] | None
    binary: bool


def read_request(body: bytes, header_length: str | None) -> Asked:
    """A request from its body.

    Args:
        header_length: of `Inference-Header-Content-Length`, where there are bytes behind the JSON.

    Raises:
        InputError: it is none.
    """
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()) or int(header_length) > len(body):
            raise InputError(
                f"Inference-Header-Content-Length is {header_length[:20]!r}; the length of the JSON in the body's "
                f"{len(body)} bytes is expected."
            )
        size = int(header_length)
    content = _object(body[:size])
    parameters = _parameters(content)
    rest = _Rest(memoryview(body)[size:])
    given = content.get("inputs")
    if not isinstance(given, list) or not given:
        raise InputError("A request needs `inputs`, a list of tensors.")
    inputs: dict[str, Tensor] = {}
    for one in given:
        tensor = _input(one, rest)
        if tensor.name in inputs:
            raise InputError(f"The input '{tensor.name}' is given twice.")
        inputs[tensor.name] = tensor
    if rest.left:
        raise InputError(f"{rest.left} bytes of the body belong to no input; check `binary_data_size`.")
    identity = content.get("id", "")
    if not isinstance(identity, str) or len(identity) > 256:
        raise InputError("The `id` of a request is a string of at most 256 characters.")
    return Asked(identity, inputs, _outputs(content), parameters.get("binary_data_output") is True)


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """A body without its `Content-Encoding`.

    Raises:
        InputError: it is another one than gzip or deflate, or damaged.
        TooLargeError: it has more than `most` bytes.
    """
    if encoding in ("", "identity"):
        return body
    # 32 finds gzip and zlib by their heads
    machine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    one_of(encoding, ("gzip", "deflate", "identity"), "Content-Encoding")
    try:
        content = machine.decompress(body, most + 1)
    except zlib.error as error:
        raise InputError(f"The body is no {encoding}: {error}.") from error
    if len(content) > most:
        raise TooLargeError(f"The body unpacks to more than the {most:,} bytes that this server takes.")
    if not machine.eof:
        raise InputError(f"The body is {encoding} that ends early.")
    return content


def packed_answer(
    head: Mapping[str, Any], outputs: Sequence[tuple[str, NDArray[Any] | list[str], bool]]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes are behind it.

    Args:
        head: what stands beside `outputs`.
        outputs: name; an array of uint8 or float32, such as labels [H, W], or strings; whether as bytes.
    """
    told: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, data, binary in outputs:
        if isinstance(data, list):
            entry: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(data)]}
            raw = b"".join(_LENGTH.pack(len(text)) + text for text in (value.encode() for value in data))
            values: list[Any] = data
        else:
            datatype = "UINT8" if data.dtype == np.uint8 else "FP32"
            entry = {"name": name, "datatype": datatype, "shape": list(data.shape)}
            raw = data.tobytes() if binary else b""
            values = [] if binary else data.ravel().tolist()
        if binary:
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = values
        told.append(entry)
    header = json.dumps({**head, "outputs": told}, ensure_ascii=False, separators=(",", ":")).encode()
    return (b"".join([header, *parts]), len(header)) if parts else (header, None)


def files_of(tensor: Tensor) -> list[bytes]:
    """The files that a BYTES tensor [N] holds; strings of JSON are base64.

    Raises:
        InputError: they are not.
    """
    values = strings_of(tensor)
    if not tensor.text:
        return values
    try:
        return [base64.b64decode(value, validate=True) for value in values]
    except binascii.Error as error:
        raise InputError(f"Input '{tensor.name}' holds files, which are base64 in JSON: {error}.") from error


def strings_of(tensor: Tensor) -> list[bytes]:
    """The values of a BYTES tensor [N].

    Raises:
        InputError: it is of another type.
    """
    if not isinstance(tensor.data, list):
        raise InputError(f"Input '{tensor.name}' is {tensor.datatype}; BYTES is expected.")
    return tensor.data


class _Rest:
    """The bytes behind the JSON."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, name: str) -> memoryview:
        if size > self.left:
            raise InputError(f"Input '{name}' has {size} bytes by its `binary_data_size`; the body has {self.left}.")
        self._at += size
        return self._data[self._at - size : self._at]


def _object(text: bytes) -> dict[str, Any]:
    def no_number(value: str) -> NoReturn:
        raise ValueError(f"{value} is no number of JSON")

    try:
        content = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputError("The request is no JSON object.")
    return content


def _parameters(content: dict[str, Any]) -> dict[str, Any]:
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("`parameters` is an object.")
    if shared := [key for key in parameters if str(key).startswith("shared_memory")]:
        raise InputError(f"This server has no shared memory ({shared[0]}); send the tensor itself.")
    return parameters


def _input(one: Any, rest: _Rest) -> Tensor:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise InputError("Each of `inputs` is an object with a `name`, a `shape`, a `datatype` and `data`.")
    name, datatype, shape = one["name"][:100], one.get("datatype"), one.get("shape")
    if not isinstance(datatype, str) or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise InputError(f"Input '{name}' needs a `datatype` and a `shape` of at most {_MOST_DIMENSIONS} sizes.")
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise InputError(f"Input '{name}' has the shape {shape}; sizes of 0 and more are expected.")
    one_of(datatype, ("BYTES", *_KINDS), f"Input '{name}': datatype")
    sizes, count = tuple(shape), math.prod(shape)
    size = _parameters(one).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size < 0:
            raise InputError(f"Input '{name}' has the `binary_data_size` {size!r}; a number of bytes is expected.")
        if "data" in one:
            raise InputError(f"Input '{name}' has both `data` and bytes; one of them is expected.")
        raw = rest.take(size, name)
        if datatype == "BYTES":
            return Tensor(name, datatype, sizes, _lengths(raw, count, name))
        kind = np.dtype(_KINDS[datatype])
        if size != count * kind.itemsize:
            raise InputError(f"Input '{name}' of shape {shape} has {size} bytes; {count * kind.itemsize} are expected.")
        return Tensor(name, datatype, sizes, np.frombuffer(raw, kind).reshape(sizes))
    if not isinstance(one.get("data"), list):
        raise InputError(f"Input '{name}' has no `data`, which is a list, and no `binary_data_size`.")
    return _from_json(name, datatype, sizes, count, one["data"])


def _from_json(name: str, datatype: str, sizes: tuple[int, ...], count: int, data: list[Any]) -> Tensor:
    if datatype == "BYTES":
        texts = _flat(data)
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"Input '{name}' of shape {list(sizes)} needs {count} strings; it has {len(texts)} values."
            )
        return Tensor(name, datatype, sizes, [text.encode("utf-8", "surrogatepass") for text in texts], text=True)
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise InputError(f"Input '{name}' has rows of different lengths, or values that are no numbers.") from error
    if values.size != count or values.dtype.kind not in "iuf":
        raise InputError(f"Input '{name}' of shape {list(sizes)} needs {count} numbers; it has {values.size} values.")
    kind = _KINDS[datatype]
    whole = values.dtype.kind != "f" or count == 0
    if kind is np.uint8 and not (whole and values.min(initial=0) >= 0 and values.max(initial=0) <= 255):
        raise InputError(f"Input '{name}' is UINT8, and has values that are no whole numbers from 0 to 255.")
    return Tensor(name, datatype, sizes, values.astype(kind).reshape(sizes))


def _flat(data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in data:
        flat += value if isinstance(value, list) else [value]
    return flat


def _lengths(raw: memoryview, count: int, name: str) -> list[bytes]:
    """Values with their lengths before them, 4 bytes each."""
    values, at = [], 0
    while at < len(raw):
        size = _LENGTH.unpack_from(raw, at)[0] if len(raw) - at >= _LENGTH.size else len(raw)
        at += _LENGTH.size + size
        if at > len(raw):
            raise InputError(f"Input '{name}' is BYTES and ends early: 4 bytes of length go before each value.")
        values.append(bytes(raw[at - size : at]))
    if len(values) != count:
        raise InputError(f"Input '{name}' has {len(values)} values; its shape says {count}.")
    return values


def _outputs(content: dict[str, Any]) -> dict[str, bool] | None:
    given, default = content.get("outputs"), _parameters(content).get("binary_data_output") is True
    if given is None or given == []:
        return None
    if not isinstance(given, list) or not all(isinstance(o, dict) and isinstance(o.get("name"), str) for o in given):
        raise InputError("`outputs` is a list of objects with a `name`.")
    outputs = {}
    for one in given:
        parameters = _parameters(one)
        if "classification" in parameters:
            raise InputError(f"Output '{one['name'][:100]}': this server has no `classification`; ask for scores.")
        outputs[one["name"]] = bool(parameters.get("binary_data", default))
    return outputs

"""Protobuf's text format, as far as `config.pbtxt` needs it, without protobuf."""

import math
from collections.abc import Mapping, Sequence
from typing import Union

Value = Union[str, int, float, bool, "Enum", "Message", Sequence["Value"]]
Message = Mapping[str, "Value"]

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Enum(str):
    """The name of an enum's value, which is written without quotes."""


def to_text(message: Message, indent: int = 0) -> str:
    """A message as text, a field a line.

    Args:
        message: fields by name; a sequence is a repeated field, of which each value is written on its own.
        indent: levels that every line is moved to the right.

    Raises:
        TypeError: a value of another kind.
        ValueError: a number that is not finite.
    """
    margin, lines = "  " * indent, []
    for name, value in message.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        for one in value if several else [value]:  # type: ignore[union-attr,list-item]
            if isinstance(one, Mapping):
                inner = to_text(one, indent + 1)
                lines.append(f"{margin}{name} {{\n{inner}{margin}}}\n" if inner else f"{margin}{name} {{}}\n")
            else:
                lines.append(f"{margin}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, Enum):
        return str.__str__(value)
    if isinstance(value, str):
        return f'"{"".join(_escaped(c) for c in value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written")
        return repr(value)
    raise TypeError(f"{type(value).__name__} cannot be written")


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    # of its bytes, three octal digits each
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))

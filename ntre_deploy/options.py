"""Plain dicts (JSON, TOML) into option dataclasses, with errors that name the option."""

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ntre_deploy.errors import InputError, did_you_mean

T = TypeVar("T")


def build(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """Make the dataclass `kind` from plain values; lists become tuples.

    Args:
        what: names the group of options in messages, such as `Model option`.

    Raises:
        InputError: an option that is unknown (with the closest one) or whose value is of another type.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    options: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{what} '{name}' is unknown.{did_you_mean(name, known)}")
        if not _fits(value, hints[name]):
            raise InputError(f"{what} '{name}' has the value {value!r}, which is of the wrong type.")
        options[name] = tuple(value) if isinstance(value, list) else value
    return kind(**options)


def _fits(value: object, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        # which of them is allowed is the dataclass's to say, with a suggestion
        return isinstance(value, str)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return len(kinds) == len(value) and all(_fits(v, k) for v, k in zip(value, kinds, strict=True))
    if kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)

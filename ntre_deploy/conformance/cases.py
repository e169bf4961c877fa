"""What each kind of case must have, so that a runner may rely on it."""

from typing import Any

from ntre_deploy.errors import InputError

Case = dict[str, Any]
Shape = Any

_CLASSES = ("input", "engine", "gate")
_SHOT = {"image": str, "mask": str}
# by kind what a case has always, and what it has where no error is expected; a list holds items of one shape
_ALWAYS: dict[str, dict[str, Shape]] = {
    "letterbox": {"image": str, "box": [int], "expected": str},
    "encode": {"classes": [{"name": str, "shots": [_SHOT]}], "calibrate": bool, "memories": [str]},
    "stack": {"memories": [str], "expected": str},
    "segment": {"image": str, "memories": [str]},
    "memory": {"memory": str},
    "bundle": {"patch": [{"op": str, "name": str}]},
}
_FOR_RESULTS: dict[str, dict[str, Shape]] = {
    "segment": {"expected": str, "labels": str, "stride": int},
    "memory": {"fields": dict, "warning": bool, "expected": str},
}
_OPTIONAL: dict[str, Shape] = {"mask": str, "needs": [str], "tolerances": dict}
_ERROR: dict[str, Shape] = {"class": str, "text": [str]}


class KitError(InputError):
    """The kit itself cannot be used, which says nothing about a runtime."""


def check_case(case: object) -> None:
    """See that a case of `kit.json` has what its kind needs, of the right types.

    Raises:
        KitError: it lacks something; tells what, without the name of the kit.
    """
    _check(case, {"name": str, "kind": str, "steps": [str]}, "a case")
    assert isinstance(case, dict)
    name, kind = case["name"], case["kind"]
    if kind not in _ALWAYS:
        raise KitError(f"the case {name} is of the kind '{kind}', which this version of ntre does not know")
    _check(case, _ALWAYS[kind], name)
    _check(case, {key: shape for key, shape in _OPTIONAL.items() if key in case}, name)
    if "error" in case:
        _check(case["error"], _ERROR, name)
        if case["error"]["class"] not in _CLASSES:
            raise KitError(f"the case {name} expects an error of the class '{case['error']['class']}'")
    else:
        _check(case, _FOR_RESULTS.get(kind, {}), name)
    if case.get("stride", 1) < 1:
        raise KitError(f"the stride of the case {name} is not above 0")


def _check(value: object, shape: Shape, where: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise KitError(f"{where} holds {type(value).__name__} where an object is expected")
        for key, inner in shape.items():
            if key not in value:
                raise KitError(f"{where} lacks the entry '{key}'")
            _check(value[key], inner, f"{where}: {key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise KitError(f"{where} is {type(value).__name__} where a list is expected")
        for item in value:
            _check(item, shape[0], where)
    elif type(value) is not shape:
        raise KitError(f"{where} is {type(value).__name__} where {shape.__name__} is expected")

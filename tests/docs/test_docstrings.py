"""Every public name of the packages has a docstring, and those that take or give arrays say of which shape."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import typing
from types import ModuleType

import pytest

PACKAGES = ("runtime", "bench", "data", "training", "model", "export", "plans")
# what can be read only where these are installed
WITH_EXTRAS = {"serving": ("fastapi", "ray")}
# what annotations of arrays are called here
ARRAYS = re.compile(r"\b(NDArray|ndarray|Tensor)\b")
# a state dict: names tell which arrays there are
NAMED = re.compile(r"(dict|Mapping)\[str, torch\.Tensor\]")
# [H, W, 3] or "as `Engine.query`"
SHAPE = re.compile(r"\[[\w .*+,]*\]|\b([Aa]s|[Ss]ee|[Ii]n|of) `[\w.]+`")


def modules() -> list[ModuleType]:
    found = [importlib.import_module("ntre_deploy")]
    there = [name for name, needed in WITH_EXTRAS.items() if all(map(importlib.util.find_spec, needed))]
    for package in (*PACKAGES, *there):
        module = importlib.import_module(f"ntre_deploy.{package}")
        names = [info.name for info in pkgutil.walk_packages(module.__path__, f"{module.__name__}.")]
        public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
        found += [module, *(importlib.import_module(name) for name in public)]
    return found


def public_names() -> list[tuple[str, object]]:
    """Modules, and the classes, functions, methods and properties that they define."""
    found: list[tuple[str, object]] = []
    for module in modules():
        found.append((module.__name__, module))
        for name, item in vars(module).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
                continue
            if not (inspect.isclass(item) or inspect.isfunction(item)):
                continue
            found.append((f"{module.__name__}.{name}", item))
            if inspect.isclass(item):
                found += [
                    (f"{module.__name__}.{name}.{key}", value)
                    for key, value in vars(item).items()
                    if not key.startswith("_") and _member(value)
                ]
    return found


def _member(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)


def _function(item: object) -> object:
    if isinstance(item, property):
        return item.fget
    return item.__func__ if isinstance(item, classmethod | staticmethod) else item


NAMES = public_names()


def _described(item: object) -> str | None:
    function = _function(item)
    return function.__doc__ if inspect.isfunction(function) else inspect.getdoc(item)


def _is_generated(item: object, text: str) -> bool:
    # a dataclass without a docstring gets its signature as one
    return inspect.isclass(item) and text.startswith(f"{item.__name__}(")


def test_the_walk_finds_what_users_import() -> None:
    names = {name for name, _ in NAMES}
    wanted = {
        "ntre_deploy.runtime.segmenter.Segmenter.segment",
        "ntre_deploy.runtime.support.SupportMemory.shots",
        "ntre_deploy.runtime.imagefile.read_image",
        "ntre_deploy.export.bundle.export_bundle",
        "ntre_deploy.model.ntrenet.NTRENet",
    }
    assert wanted <= names
    assert len(names) > 200


def test_the_public_names_of_the_package_are_documented() -> None:
    package = importlib.import_module("ntre_deploy")
    for name in package.__all__:
        if not name.startswith("__"):
            assert getattr(package, name).__doc__, name


def test_every_public_name_has_a_docstring() -> None:
    # what a module of PyTorch computes stands at the class
    missing = [
        name
        for name, item in NAMES
        if not name.endswith(".forward") and (not (text := _described(item)) or _is_generated(item, text))
    ]
    assert missing == []


def _annotations(item: object) -> str:
    function = _function(item)
    if not inspect.isfunction(function):
        return ""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # imported for type checkers alone
        hints = function.__annotations__
    return " ".join(str(hint) for hint in hints.values())


def test_functions_over_arrays_give_their_shapes() -> None:
    missing = []
    for name, item in NAMES:
        if name.endswith(".forward"):
            continue
        if ARRAYS.search(NAMED.sub("", _annotations(item))) and not SHAPE.search(_described(item) or ""):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("text", ["uint8 [H, W]", "See `Engine.support`."])
def test_the_search_for_shapes_knows_them(text: str) -> None:
    assert SHAPE.search(text)
    assert not SHAPE.search("The label map of an image.")

"""Options that commands take together: one parameter of a command stands for the fields of a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer


def option(panel: str, name: str, metavar: str | None, text: str, **more: Any) -> Any:
    """An option of a panel of the help; for several names, `|` stands between them."""
    return typer.Option(*name.split("|"), metavar=metavar, rich_help_panel=panel, help=text, **more)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a dataclass's type are options of its fields, where they stand.

    Typer makes options of a function's parameters alone, so that each command would have to list those that it has in
    common with others, and hand them on one by one.

    Args:
        command: takes the dataclasses by keyword; their fields are annotated as Typer's parameters are, and have
            defaults.
    """
    groups: dict[str, Any] = {}
    expanded: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if not is_dataclass(parameter.annotation):
            expanded.append(parameter)
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        for field in fields(parameter.annotation):
            default, hint = field.default, hints[field.name]
            expanded.append(inspect.Parameter(field.name, parameter.kind, default=default, annotation=hint))

    @wraps(command)
    def run(*args: Any, **given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group) if field.name in given})
        command(*args, **given)

    # mypy knows no such attribute of functions, and inspect goes by it
    run.__signature__ = inspect.Signature(expanded)  # type: ignore[attr-defined]
    return run

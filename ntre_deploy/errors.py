"""Errors that a user can mend, each with the exit code that `ntre` gives for it.

A message names what was given, what was expected and the next step, in one line.  Everything else that is
raised is a defect of this project and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class NtreError(Exception):
    """Base of all errors that are meant for the user."""

    exit_code = 2


class NtreWarning(UserWarning):
    """Something that the user should know and that stops nothing; one line, which `ntre` shows as `warning: ...`."""


class InputError(NtreError):
    """Bad input or usage: a file, an option or a value that cannot be used."""


class TooLargeError(InputError):
    """Bad input that is larger than a limit."""


class GateError(NtreError):
    """A check that the user asked for did not pass (verification, parity, latency)."""

    exit_code = 1


class EngineError(NtreError):
    """An engine or a device that was asked for is not available, or failed while it ran."""

    exit_code = 3


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` where one of `known` is close to `given`, else an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def one_of(given: str, known: Iterable[str], what: str) -> str:
    """Return `given` when it is one of `known`.

    Raises:
        InputError: names the value, the values that exist and the closest one.
    """
    values = list(known)
    if given in values:
        return given
    raise InputError(
        f"{what} '{given}' is unknown; it must be one of {', '.join(values)}.{did_you_mean(given, values)}"
    )

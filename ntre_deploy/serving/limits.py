"""How much a server takes of one request, and of all at once."""

from dataclasses import dataclass, fields

from ntre_deploy.errors import InputError, NtreError
from ntre_deploy.runtime.imagefile import MAX_PIXELS
from ntre_deploy.runtime.labels import MAX_CLASSES


class BusyError(NtreError):
    """As many requests wait as may; come back after `seconds`.

    Args:
        seconds: until a place is free, as far as is known.
    """

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class ClosedError(NtreError):
    """The server ends, and takes nothing new."""


class LateError(NtreError):
    """A request was not begun within the time that it had."""


class MissingError(InputError):
    """What a request names is not there."""


@dataclass(frozen=True)
class Limits:
    """What is refused with one line.

    Attributes:
        body_bytes: of a request, in bytes.
        pixels: of a photo or mask, as its header declares them.
        seconds: from a request's arrival to its answer.
        waiting: requests that wait for a worker; more are refused.
        classes: of one request.
        shots: annotated images of one request, of all its classes.
        memories: support memories that are kept.

    Raises:
        InputError: a value that is not above 0, or above what the runtime can do.
    """

    body_bytes: int = 32 << 20
    pixels: int = 50_000_000
    seconds: float = 30.0
    waiting: int = 64
    classes: int = 32
    shots: int = 64
    memories: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "waiting" else 1e-9
            # written so that NaN fails
            if not getattr(self, field.name) >= least:
                raise InputError(f"The limit '{field.name}' is {getattr(self, field.name)}; it must be above 0.")
        if self.classes > MAX_CLASSES:
            raise InputError(f"The limit 'classes' is {self.classes}; a label map holds 1 to {MAX_CLASSES}.")
        if self.pixels > MAX_PIXELS:
            raise InputError(f"The limit 'pixels' is {self.pixels:,}; at most {MAX_PIXELS:,} are read.")

"""Errors as answers, and answers in JSON."""

import json
import math
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ntre_deploy.errors import EngineError, InputError, NtreError, TooLargeError
from ntre_deploy.serving.limits import BusyError, ClosedError, LateError, MissingError

# seconds after which a server that loads or ends is asked again
_PATIENCE = 2


class UnusableError(InputError):
    """A request is made as it should be, but a photo, mask or memory in it cannot be used."""


class MediaTypeError(InputError):
    """A body of a type that is not known."""


# the first that fits counts
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (MissingError, 404),
    (TooLargeError, 413),
    (MediaTypeError, 415),
    (UnusableError, 422),
    (BusyError, 429),
    (ClosedError, 503),
    (LateError, 504),
    (EngineError, 500),
    (NtreError, 400),
    (RequestValidationError, 400),
)


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 of a defect."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def refused(error: Exception) -> Response:
    """`{"error": LINE}` with the status of an error, and when to come again where that is known."""
    status = status_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, BusyError):
        headers["retry-after"] = str(math.ceil(error.seconds))
    elif status == 503:
        headers["retry-after"] = str(_PATIENCE)
    return json_response({"error": line_of(error)}, status, headers)


def line_of(error: Exception) -> str:
    """What a client is told of an error; of a defect, where to find more."""
    if isinstance(error, HTTPException):
        line = str(error.detail)
    elif isinstance(error, RequestValidationError):
        line = "; ".join(_told(problem) for problem in error.errors())
    elif isinstance(error, NtreError):
        line = str(error)
    else:
        line = "The server failed at this request; its log has more under the request's id."
    return " ".join(line.split())


def json_bytes(content: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(json_bytes(content), status, headers, "application/json")


def _told(problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem.get("loc", ())[1:])
    return f"{where or 'The request'}: {problem.get('msg', 'cannot be used')}"

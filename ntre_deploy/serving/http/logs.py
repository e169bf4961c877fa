"""Logs for machines: one JSON object on each line of stderr."""

import json
import logging
import sys
import traceback
import warnings
from datetime import datetime, timezone
from typing import Any, TextIO

LOGGER = logging.getLogger("ntre_deploy.serving.http")
# attribute of a record, by which `event` hands it what to say
_FIELDS = "ntre_fields"


class JsonLines(logging.Formatter):
    """A record as `{"time": ..., "level": ..., "event": ..., ...}`; a line break cannot be inside."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, of this package or of another."""
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        content: dict[str, Any] = {"time": moment.replace("+00:00", "Z"), "level": record.levelname.lower()}
        content["event"] = record.getMessage()
        content |= getattr(record, _FIELDS, {})
        if record.exc_info and record.exc_info[0] is not None:
            content["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(content, ensure_ascii=True, default=str)


def event(name: str, level: int = logging.INFO, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log that something has happened.

    Args:
        name: of what, such as `request`.
        error: whose traceback is logged.
        fields: more keys of the object.
    """
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, name, extra={_FIELDS: fields}, exc_info=error)


def log_to(stream: TextIO | None = None) -> None:
    """Have everything log to a stream, Python's warnings too; None takes stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    # it warns of every form that a client has made wrong
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        event("warning", logging.WARNING, message=str(message), category=category.__name__)

    warnings.showwarning = show

"""Structured logs: one JSON object a line on standard error, with the request's id and no personal data.

Only the event's own fields are written. An exception is reduced to its type and the place it was raised,
because its message may quote a value; lines of third-party libraries pass at WARNING and above, their text
cut to the template they were logged with, for the same reason.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import PurePath
from typing import Any, TextIO

import structlog

__all__ = ["configure_logs", "error_place", "log"]

# What our own rooms log holds no data by their own rule; anybody else's arguments may be data.
_OWN = frozenset({"comity", "federated", "clean_room", "consent", "privacy"})

log: structlog.stdlib.BoundLogger = structlog.get_logger("comity")


def error_place(error: BaseException) -> str:
    """`module.py:line in function` of the innermost frame, without any value."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f"{PurePath(last.filename).name}:{last.lineno} in {last.name}"


def _without_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else sys.exc_info()[1] if info else None
    if error is not None:
        event["error"] = type(error).__name__
        event["at"] = error_place(error)
    return event


class _JsonLines(logging.Handler):
    """Records made through the standard library; of other people's libraries the template only."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._write = structlog.wrap_logger(
            structlog.PrintLogger(stream), processors=_processors(), wrapper_class=structlog.BoundLogger
        )

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        own = record.name.partition(".")[0] in _OWN
        text = record.getMessage() if own else str(record.msg)
        self._write.msg(text[:500], level=record.levelname.lower(), logger=record.name, exc_info=error)


def _processors() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_values,
        structlog.processors.JSONRenderer(),
    ]


def configure_logs(*, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging for this process. Called by `comity serve`; libraries and tests need not call it."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *_processors()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(_JsonLines(out))
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"

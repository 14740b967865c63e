"""The router's own log: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

# What every LogRecord has: the rest came in by ``extra`` and belongs into the line.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record with its ``extra`` members; escaping makes forged lines impossible."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LineHandler(logging.Handler):
    """Gives each line to somebody who writes it without waiting."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one line on."""
        self._say(self.format(record) + "\n")


def send_through(say: Callable[[str], None]) -> None:
    """Send the log through ``say`` from now on.

    A stream that nobody reads would stop whoever logs, which is the event loop; and two writers to one pipe
    would write into each other's lines.
    """
    _use(LineHandler(say))


def set_up(stream: TextIO) -> None:
    """Send the log of the whole process to ``stream``."""
    _use(logging.StreamHandler(stream))


def _use(handler: logging.Handler) -> None:
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)

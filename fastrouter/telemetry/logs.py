"""The router's own log: one line each, JSON or for people."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from fastrouter.telemetry.console import log_line

# What every LogRecord has: the rest came in by ``extra`` and belongs into the line.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """Formats a record with its ``extra`` members; escaping makes forged lines impossible."""

    def __init__(self, style: str = "json") -> None:
        """Write ``json``, or for people: ``console``."""
        super().__init__()
        self._console = style == "console"

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
        return log_line(line) if self._console else json.dumps(line, default=str)


class LineHandler(logging.Handler):
    """Gives each line to somebody who writes it without waiting."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one line on."""
        self._say(self.format(record) + "\n")


class Seldom:
    """Spares the log: something that clients can cause as often as they like is told once in a while."""

    def __init__(self, seconds: float) -> None:
        """Let it be told once in so many seconds."""
        self._seconds = seconds
        self._quiet_until = -math.inf

    def may(self, now: float) -> bool:
        """Tell whether it is time again ``now`` (monotonic seconds); if so, that was it for a while."""
        if now < self._quiet_until:
            return False
        self._quiet_until = now + self._seconds
        return True


def send_through(say: Callable[[str], None], *, style: str = "json", level: str = "info") -> None:
    """Send the log through ``say`` from now on.

    A stream that nobody reads would stop whoever logs, which is the event loop; and two writers to one pipe
    would write into each other's lines.
    """
    _use(LineHandler(say), style, level)


def set_up(stream: TextIO, *, style: str = "json", level: str = "info") -> None:
    """Send the log of the whole process to ``stream``: what has ``level`` or more."""
    _use(logging.StreamHandler(stream), style, level)


def _use(handler: logging.Handler, style: str, level: str) -> None:
    handler.setFormatter(Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())

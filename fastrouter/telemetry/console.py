"""Log lines for people: the same facts as the JSON lines, in columns."""

from __future__ import annotations

import json
from typing import Any, Final

# Members of an access line that have a column.
_COLUMNS: Final = frozenset(
    {
        *("time", "method", "path", "sandbox_id", "namespace", "status", "duration_ms"),
        *("bytes_in", "bytes_out", "upstream", "connection", "error"),
    }
)


def access_line(line: str) -> str:
    """Return the console's form of one JSON access line."""
    told: dict[str, Any] = json.loads(line)
    sandbox = f"{told['sandbox_id']}.{told['namespace']}" if told["sandbox_id"] else "-"
    request = f"{told['method'] or '-'} {_plain(told['path'] or '-')}"
    parts = [
        *(_clock(told["time"]), f"{told['status']:3}", f"{told['duration_ms']:9.1f} ms", request, sandbox),
        f"in={told['bytes_in']} out={told['bytes_out']}",
    ]
    if told["upstream"]:
        parts.append(f"{told['connection']} {told['upstream']}")
    if told["error"]:
        parts.append(told["error"])
    return " ".join([*parts, *_named(told, _COLUMNS)]) + "\n"


def log_line(told: dict[str, Any]) -> str:
    """Return the console's form of one line of the router's own log, its traceback below it."""
    traceback = told.pop("traceback", "")
    parts = [_clock(told["time"]), f"{told['level']:7}", _plain(told["message"])]
    line = " ".join([*parts, *_named(told, frozenset({"time", "level", "message"}))])
    # A text in it may be a client's: indented, it is no line of its own.
    return "\n".join([line, *("    " + _plain(each) for each in traceback.splitlines())])


def _named(told: dict[str, Any], known: frozenset[str]) -> list[str]:
    return [f"{name}={_quoted(value)}" for name, value in told.items() if name not in known]


def _quoted(value: object) -> str:
    """Return a member's value such that it holds no other member."""
    text = _plain(value)
    return json.dumps(text) if text is value and set(text) & set(' ="') else text


def _clock(stamp: str) -> str:
    return stamp[11:23]  # of today's lines, the time of day is what differs


def _plain(value: object) -> str:
    """Return a value on one line: what a client chose must not move the cursor or forge a line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text.isprintable() and text.isascii() else json.dumps(text)

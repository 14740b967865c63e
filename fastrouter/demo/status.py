"""The live status line of the demo."""

import time
from collections.abc import Callable, Mapping
from typing import TextIO

Statistics = Callable[[], Mapping[str, object]]


def count(value: object) -> int:
    """Return a counter as one number; a counter by reason is summed."""
    if isinstance(value, Mapping):
        return sum(count(part) for part in value.values())
    return int(value) if isinstance(value, int | float) else 0


class StatusLine:
    """Requests per second, errors and sandboxes seen, on one line that is written over each second."""

    def __init__(self, out: TextIO, statistics: Statistics, seen: Callable[[], str]) -> None:
        """Take where to write, the counters of the router, and what tells the sandboxes seen."""
        self._out = out
        self._statistics = statistics
        self._seen = seen
        self._requests = 0
        self._errors = 0
        self._at = time.monotonic()
        self._width = 0

    def refresh(self) -> None:
        """Write the line; on anything but a terminal write nothing."""
        before, at = self._requests, self._at
        self._read()
        if self._out.isatty():
            rate = (self._requests - before) / max(self._at - at, 0.001)
            self._write(f"{rate:,.0f} requests/s, {self.totals()}")

    def close(self) -> None:
        """Wipe the line and leave the cursor at its start."""
        self._read()
        if self._out.isatty():
            self._write("")
            self._out.write("\r")

    def totals(self) -> str:
        """Return what has been counted up to the last refresh."""
        return f"{self._requests:,} requests, {self._errors:,} errors, {self._seen()} sandboxes seen"

    def _read(self) -> None:
        statistics = self._statistics()
        self._requests = count(statistics.get("requests"))
        self._errors = count(statistics.get("errors"))
        self._at = time.monotonic()

    def _write(self, text: str) -> None:
        # Blanks over what is left of a longer line: every terminal can do that.
        self._out.write("\r" + text.ljust(self._width))
        self._out.flush()
        self._width = len(text)

"""The sandbox's event streams: one timer for each interval, however many connections listen to it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

# A listener that never reads must not fill the memory; events are never left out, so it loses its connection.
MOST_UNREAD: Final = 1024 * 1024


class Ticker:
    """Writes an event to every listener of one interval whenever that is over."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.listeners: set[asyncio.Transport] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, transport: asyncio.Transport) -> None:
        """Begin to write to a connection whose head is out."""
        self.listeners.add(transport)
        if self._timer is None:
            self._plan(asyncio.get_running_loop().time() + self.interval)

    def remove(self, transport: asyncio.Transport) -> None:
        """Write to it no more; the last one stops the timer."""
        self.listeners.discard(transport)
        if not self.listeners and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, due: float) -> None:
        # From due to due: the time that writing takes does not add up.
        self._timer = asyncio.get_running_loop().call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        event = b"data: %d\n\n" % time.monotonic_ns()
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        for transport in self.listeners:
            transport.write(chunk)
            if transport.get_write_buffer_size() > MOST_UNREAD:
                transport.abort()
        self._plan(max(due, asyncio.get_running_loop().time() - self.interval) + self.interval)


class Tickers:
    """The tickers of all intervals."""

    def __init__(self) -> None:
        self._by_interval: dict[float, Ticker] = {}

    def of(self, interval: float) -> Ticker:
        """The one of an interval in seconds."""
        return self._by_interval.setdefault(interval, Ticker(interval))

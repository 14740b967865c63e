"""The sweep: one coarse timer for all deadlines of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL_SECONDS: Final = 0.25


class Sweep:
    """Calls ``callbacks`` every 0.25 s.

    Deadlines are plain numbers on connections, compared here: a timer per request would cost more than the
    rest of its book-keeping. A limit is kept to within one interval.
    """

    def __init__(
        self, callbacks: list[Callable[[], None]], late: Callable[[float], None] = lambda _: None
    ) -> None:
        """Call ``callbacks``; ``late`` is told by how many seconds the event loop was late each time."""
        self._callbacks = callbacks
        self._late = late
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; the running loop calls from now on."""
        loop = asyncio.get_running_loop()
        self._due = loop.time() + INTERVAL_SECONDS
        self._handle = loop.call_at(self._due, self._run)

    def stop(self) -> None:
        """End."""
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self._late(max(0.0, asyncio.get_running_loop().time() - self._due))
        self.start()  # first: a callback that fails must not end the sweep
        for callback in self._callbacks:
            callback()

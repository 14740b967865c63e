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

    def __init__(self, callbacks: list[Callable[[], None]]) -> None:
        self._callbacks = callbacks
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; the running loop calls from now on."""
        self._handle = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._run)

    def stop(self) -> None:
        """End."""
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self.start()  # first: a callback that fails must not end the sweep
        for callback in self._callbacks:
            callback()

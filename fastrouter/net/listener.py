"""The listening socket: accepts, and stops accepting while there is no room for more."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from fastrouter.net.connection import readable

_BACKLOG: Final = 4096

# Files that are no connection: the log, the event loop's own, the resolver's sockets, connections under way.
_RESERVE: Final = 64

SHED: Final = 64
"""How many idle connections to sandboxes are closed at once for want of file descriptors."""


DRAIN_SECONDS: Final = 1.0
"""How long what the kernel holds already is waited for at the end."""


class Room:
    """Compares the connections that are open with the limit of open files (0: none is known)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def is_short(self, count: int) -> bool:
        """Tell whether no further connection should be accepted."""
        return 0 < self.limit <= count + _RESERVE

    def is_back(self, count: int) -> bool:
        """Tell whether there is room again, and not only for one."""
        return self.limit > count + 2 * _RESERVE


class Listener:
    """Accepts connections for a protocol factory.

    Out of file descriptors, libuv accepts and closes at once whatever comes. ``pause`` comes before that: the
    socket stays open but nobody accepts, so clients wait in the kernel's queue instead of being cut off.
    """

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        self._make = make
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._waiting: list[socket.socket] = []
        self._resuming: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Listener {self._host}:{self._port} paused={self.paused}>"

    async def start(self) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._make, self._host, self._port, backlog=_BACKLOG)

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        sockets = self._waiting or (self._server.sockets if self._server is not None else ())
        if not sockets:
            return self._host, self._port
        host, port = sockets[0].getsockname()[:2]
        return host, port

    @property
    def paused(self) -> bool:
        """True while nobody accepts."""
        return bool(self._waiting)

    def pause(self) -> None:
        """Accept no more; the kernel queues who comes."""
        if self._server is None or self.paused:
            return
        # Closing the server closes its sockets: copies of their descriptors keep the queue.
        self._waiting = [socket.socket(fileno=os.dup(each.fileno())) for each in self._server.sockets]
        self._server.close()
        self._server = None

    def resume(self) -> None:
        """Accept again, who waited first."""
        if self.paused and self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self._resume())

    async def _resume(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                self._server = await loop.create_server(self._make, sock=each, backlog=_BACKLOG)
        finally:
            self._resuming = None

    async def drain(self) -> None:
        """Accept who waits in the kernel's queue: closing the socket would reset them, and what they sent."""
        end = time.monotonic() + DRAIN_SECONDS
        while self._server is not None and time.monotonic() < end and readable(self._server.sockets):  # noqa: ASYNC110
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop listening."""
        if self._resuming is not None:
            self._resuming.cancel()
        if self._server is not None:
            self._server.close()
        for each in self._waiting:
            each.close()
        self._waiting = []

"""The listening socket: accepts, and stops accepting while there is no room for more."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from fastrouter.net import filters
from fastrouter.net.connection import readable

BACKLOG: Final = 4096
"""How many connections the kernel queues for a socket."""

# Files that are no connection: the log, the event loop's own, the resolver's sockets, connections under way.
_RESERVE: Final = 64

SHED: Final = 64
"""How many idle connections to sandboxes are closed at once for want of file descriptors."""


DRAIN_SECONDS: Final = 1.0
"""How long what the kernel holds already is waited for at the end."""

HANDSHAKE_SECONDS = 0.05
"""How long the last packet of handshakes that the kernel has begun is waited for: within a cluster, it takes
far less."""
_LOOK_SECONDS: Final = 0.005


class Room:
    """Compares a number of open files with what their limit leaves for connections (0: no limit is known)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Of a very low limit, the reserve would take all.
        self._most = max(limit - _RESERVE, limit // 2)

    def is_short(self, count: int) -> bool:
        """Tell whether no further connection should be opened."""
        return 0 < self._most <= count

    def is_back(self, count: int) -> bool:
        """Tell whether there is room again, and not only for one."""
        return count < self._most - min(_RESERVE, self._most // 4)


class Listener:
    """Accepts connections for a protocol factory.

    Out of file descriptors, libuv accepts and closes at once whatever comes. ``pause`` comes before that: the
    sockets stay open but nobody accepts, so clients wait in the kernel's queue instead of being cut off.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Listen at ``start``: on the host's addresses, or on ``sockets``, which listen already."""
        self._make = make
        self._host = host
        self._port = port
        self._servers: list[asyncio.Server] = []
        # Closing a server closes its sockets: copies of their descriptors keep the queue. They are made at
        # the start: in a pause there may be no descriptor left to make them with.
        self._sockets: list[socket.socket] = list(sockets)
        self._resuming: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Listener {self._host}:{self._port} paused={self.paused}>"

    async def start(self) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        if self._sockets:
            await self._accept()
            return
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._make, self._host, self._port, backlog=BACKLOG)
        self._servers = [server]
        self._sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        if not self._sockets:
            return self._host, self._port
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    @property
    def listening(self) -> bool:
        """True from start to close: in a pause too, clients can connect."""
        return bool(self._sockets)

    @property
    def paused(self) -> bool:
        """True while nobody accepts."""
        return bool(self._sockets) and not self._servers

    def pause(self) -> None:
        """Accept no more; the kernel queues who comes."""
        for each in self._servers:
            each.close()
        self._servers = []

    def resume(self) -> None:
        """Accept again, who waited first."""
        if self.paused and self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self._resume())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            server = await loop.create_server(self._make, sock=each.dup(), backlog=BACKLOG)
            self._servers.append(server)

    async def _resume(self) -> None:
        try:
            await self._accept()
        except OSError:  # no descriptor for a copy: whoever resumed will try again
            self.pause()
        finally:
            self._resuming = None

    async def drain(self) -> None:
        """Accept who waits in the kernel's queue: closing the socket would reset them, and what they sent.

        Nobody joins the queue any more: else there would always be somebody between the last look at it and
        its end. After a pause, accepting goes on for them.
        """
        self.resume()
        if self._resuming is not None:
            await self._resuming
        began = now = time.monotonic()
        alone = [filters.drop_new_connections(each) for each in self._sockets]
        last = began + HANDSHAKE_SECONDS if all(alone) else began
        while self._servers and now < began + DRAIN_SECONDS:
            waiting = readable(self._sockets)
            if not waiting and now >= last:
                break
            await asyncio.sleep(0 if waiting else _LOOK_SECONDS)
            now = time.monotonic()

    def close(self) -> None:
        """Stop listening."""
        if self._resuming is not None:
            self._resuming.cancel()
        self.pause()
        for each in self._sockets:
            each.close()
        self._sockets = []

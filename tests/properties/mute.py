"""A client that reads only when told."""

from __future__ import annotations

import asyncio
import socket

from fastrouter.net.downstream import Downstream
from tests.support import LIMIT, Stage, eventually


class Mute:
    """A client with small socket buffers that reads only when told."""

    def __init__(self, router: Stage) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        self._router = router
        self._loop = asyncio.get_running_loop()

    async def connect(self) -> Downstream:
        """Connect, and return the router's side of the connection."""
        known = set(self._router.server.connections)
        await self._loop.sock_connect(self.socket, self._router.server.address)
        await eventually(lambda: len(self._router.server.connections) > len(known))
        side = next(iter(self._router.server.connections - known))
        # What is not taken should show in the router, not in megabytes of the kernel's own buffer.
        side.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return side

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self._loop.sock_sendall(self.socket, data), LIMIT)

    async def read(self) -> bytes:
        return await asyncio.wait_for(self._loop.sock_recv(self.socket, 65536), LIMIT)

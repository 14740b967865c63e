"""What is to be sent, from the first write of a turn of the event loop to the end of that turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

MOST: Final = 32 * 1024
"""How many bytes may wait: who writes more than its peer takes has to be told while it still reads."""

MOST_PIECES: Final = 64
"""How many writes may wait: with thousands of connections, a turn of the event loop is thousands of reads."""


class Outbox:
    """Sends what many connections write in one turn of the event loop together, in the order they wrote it.

    A transport writes at once, and each write may wake its receiver, which costs as much as the write itself.
    One right after the other, writes find their receivers awake, who had gone back to sleep while the router
    was busy with the next request: see docs/decisions/0015.
    """

    __slots__ = ("_size", "_waiting")

    def __init__(self) -> None:
        self._size = 0
        self._waiting: deque[tuple[asyncio.Transport, bytes]] = deque()

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._waiting)}>"

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send ``data`` when what came in this turn has been read; call it within the event loop."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self.send)
        waiting.append((transport, data))
        self._size += len(data)
        if self._size > MOST or len(waiting) >= MOST_PIECES:
            self.send()

    def send(self) -> None:
        """Send what waits, now: for whoever ends a transport, or writes to it directly.

        To a connection that is gone already, nothing: uvloop raises, and who has to know is told otherwise.
        """
        waiting = self._waiting
        self._size = 0
        try:
            while waiting:
                transport, data = waiting.popleft()
                if not transport.is_closing():
                    transport.write(data)
        finally:
            if waiting:  # one transport refused: that is no reason for the others to wait for ever
                asyncio.get_running_loop().call_soon(self.send)

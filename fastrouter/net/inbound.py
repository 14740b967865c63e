"""What a client sends, and how long it is waited for: heads, and bodies that nobody waits for."""

from __future__ import annotations

import asyncio
import math
import time
from enum import Enum
from typing import TYPE_CHECKING, Final

from fastrouter.errors import REQUEST_TIMEOUT, RouterError
from fastrouter.net.connection import Connection
from fastrouter.wire.heads import END, END_SIZE, MAX_HEAD, check_incomplete

if TYPE_CHECKING:
    from fastrouter.net.outbox import Outbox
    from fastrouter.settings import Settings
    from fastrouter.wire.framing import Body

# After a reply that closes, how long and how much is still read: closing with unread bytes makes the kernel
# send RST, and the client may never see the reply (RFC 9112 9.6).
_LINGER_SECONDS: Final = 2.0
_MAX_LINGER: Final = 1024 * 1024

# A client that takes nothing of its last answer for this long after the connection was closed is cut off:
# `close` alone waits for it for ever.
FLUSH_SECONDS: Final = 30.0


class Phase(Enum):
    """What a client connection waits for, which decides its deadline."""

    HEAD = "head"
    IDLE = "idle"
    EXCHANGE = "exchange"
    CLOSING = "closing"


# Python 3.11 looks members of an enum up slowly: these two are needed for every request.
IDLE: Final = Phase.IDLE
EXCHANGE: Final = Phase.EXCHANGE
CLOSING: Final = Phase.CLOSING


class Inbound(Connection):
    """The reading half of a client connection: phases, their deadlines, and what is read in each.

    ``deadline`` (monotonic seconds) ends every phase but EXCHANGE, which has its own.
    """

    __slots__ = ("_settings", "at_rest", "deadline", "phase", "timed_out")

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox, settings: Settings) -> None:
        super().__init__(loop, outbox)
        self._settings = settings
        self.timed_out = False
        """Set when the deadline has passed; the connection ends."""
        self.at_rest = False
        """True while the task waits for a head and nothing of it has come."""
        self.phase = Phase.HEAD
        self.deadline = math.inf

    async def read_head(self) -> bytes | None:
        """Return the bytes of the next head; None when the connection idled to its end.

        Nothing (``b""``) is returned when an exchange that was begun without the task needs it.
        Raises ``MalformedMessageError`` as soon as what came can no longer become a head, and ``RouterError``
        (408) when the rest of it did not come in time.
        """
        scanned = 0
        while True:
            buffer = self.buffer
            if buffer.startswith(b"\r\n"):
                buffer = self._without_empty_lines(buffer)
            end = buffer.find(END, max(0, scanned - 3))
            if 0 <= end <= MAX_HEAD:
                break
            if buffer:
                check_incomplete(buffer, scanned)
                scanned = len(buffer)
            if self.phase is IDLE and buffer:
                self.enter(Phase.HEAD, self._settings.request_head_timeout)
            self.resume_reading()
            self.at_rest = not buffer
            await self.changed()
            self.at_rest = False
            if self.timed_out:
                if self.buffer:
                    raise RouterError(REQUEST_TIMEOUT)
                return None
            if self.phase is EXCHANGE or self.phase is CLOSING or self.writing_paused:
                return b""
        end += END_SIZE
        self.buffer = buffer[end:]
        return buffer[:end]

    def _without_empty_lines(self, buffer: bytes) -> bytes:
        """Drop empty lines before a request line (RFC 9112 2.2: some clients send one after a body)."""
        # One cut for all of them: 256 KiB of empty lines, cut one by one, would hold the loop for seconds.
        empty = 0
        while buffer.startswith(b"\r\n", empty):
            empty += 2
        self.buffer = buffer[empty:]
        return self.buffer

    async def catch_up(self) -> bool:
        """Let others have a turn before a pipelined request, and wait for a client that reads no answers."""
        await asyncio.sleep(0)
        while self.writing_paused and not self.timed_out:
            await self.changed()
        return not self.timed_out

    def resume_writing(self) -> None:
        """Go on with the requests that waited for the client to take its answers."""
        super().resume_writing()
        self.wake()

    async def drain(self, body: Body) -> bool:
        """Read up to the end of a request body; return whether it came in time."""
        while True:
            data, self.buffer = self.buffer, b""
            body.feed(data)
            if body.done:
                break
            self.resume_reading()
            await self.changed()
            if self.timed_out:
                return False
        self.buffer = body.excess
        self.enter(IDLE, self._settings.client_keepalive)
        return True

    async def linger(self) -> None:
        """Say that nothing more comes, and read on for a moment: see ``_LINGER_SECONDS``."""
        if self.transport.is_closing() or not self.transport.can_write_eof():
            return
        self.enter(Phase.CLOSING, _LINGER_SECONDS)
        self.write_eof()
        seen = 0
        while seen < _MAX_LINGER and not self.timed_out:
            seen += len(self.buffer)
            self.buffer = b""
            self.resume_reading()
            await self.changed()

    def enter(self, phase: Phase, seconds: float) -> None:
        """Begin a phase that may take ``seconds``."""
        self.phase = phase
        self.deadline = time.monotonic() + seconds

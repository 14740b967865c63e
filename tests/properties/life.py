"""A world in memory for one router: clients and sandboxes that do one small thing at a time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import httpcore

from fastrouter.server import Server
from fastrouter.settings import Settings
from tests.shim import MemoryTransport

HIGH_WATER: Final = 512
"""Bytes that a client has not taken, above which the router is told to wait."""
QUIET_TURNS: Final = 12
_HEAD: Final = re.compile(
    rb"(?:GET|HEAD|POST|PUT) / HTTP/1\.1\r\n.*?\r\nX-Tag: (\S+)\r\n.*?\r\n\r\n", re.DOTALL
)
_CLOCKS: Final = (
    "accounts",
    "exchange",
    "response",
    "server",
    "net.downstream",
    "net.inbound",
    "net.pool",
    "net.dialer",
)


class Clock:
    """The time of the router, which passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
        self._patches = [mock.patch(f"fastrouter.{name}.time", clock) for name in _CLOCKS]
        for patch in self._patches:
            patch.start()

    def stop(self) -> None:
        for patch in self._patches:
            patch.stop()


class ClientTransport(MemoryTransport):
    """A client's connection whose other end may stop reading: what it has not taken is kept."""

    def __init__(self, side: asyncio.Protocol) -> None:
        super().__init__(side)
        self._side = side
        self.takes = True
        self.unsent = b""
        self._full = False
        self._lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written behind the end"
        assert not self.ended, "written behind the FIN"
        self.unsent += data
        if len(self.unsent) > HIGH_WATER and not self.takes and not self._full:
            self._full = True
            self._side.pause_writing()
        self.flush()

    def flush(self) -> None:
        """Let the client take what is there, where it reads."""
        if not self.takes:
            return
        self.written, self.unsent = self.written + self.unsent, b""
        if self._full:
            self._full = False
            self._side.resume_writing()
        if self.closing:
            self._lose()

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def close(self) -> None:
        self.closing = self.ended = True
        if not self.unsent:
            self._lose()

    def abort(self) -> None:
        self.closing = self.ended = True
        self.unsent = b""
        self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._side.connection_lost, None)

    @property
    def there(self) -> bool:
        """Whether the client is there: the router may have closed, and wait for what it has not taken."""
        return not self._lost


class Client:
    """One client: what it means to say, what it has said, and what it was told."""

    def __init__(self, server: Server, number: int) -> None:
        self.number = number
        self.side = server.make_downstream()
        self.transport = ClientTransport(self.side)
        self.side.connection_made(self.transport)
        self.asked = 0
        self.outbox = b""
        self.said = b""

    def next_tag(self) -> bytes:
        """Return a tag that no other request has."""
        self.asked += 1
        return b"#c%d-%04d" % (self.number, self.asked)

    def say(self, size: int) -> None:
        """Send the next bytes of the outbox."""
        piece, self.outbox = self.outbox[:size], self.outbox[size:]
        self.said += piece
        if piece:
            self.transport.deliver(piece)

    def leave(self, *, politely: bool) -> None:
        if politely and not self.transport.closing:
            if not self.side.eof_received():
                self.transport.close()
        else:
            self.transport.abort()


class SandboxStream(httpcore.AsyncNetworkStream):
    """One connection to a sandbox: it keeps what comes, and says what it is told to say."""

    def __init__(self) -> None:
        self.sent = b""
        self.outbox = b""
        self.answers = 0
        self.ended = self.closed = False
        self.regular = True
        """False once it gave an answer after which bytes may still belong to it."""
        self.switched = False
        """True once it switched protocols: what looks like a request is a frame then."""
        self._coming: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._takes = asyncio.Event()
        self._takes.set()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        piece = await self._coming.get()
        if isinstance(piece, OSError):
            raise piece
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        await self._takes.wait()
        self.sent += buffer

    async def aclose(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> Any:
        return None

    @property
    def tags(self) -> list[bytes]:
        """The tags of the requests that came, in order."""
        return _HEAD.findall(self.sent)

    @property
    def waiting(self) -> bool:
        """Whether a request has come for which no answer was begun."""
        return len(self.tags) > self.answers and not self.switched

    @property
    def idle(self) -> bool:
        """Whether all that was asked was answered: whatever comes now is not for anybody."""
        settled = self.regular and self._takes.is_set() and not self.outbox
        return settled and len(self.tags) == self.answers > 0

    def next_tag(self) -> bytes:
        """Return the tag of the request that is answered next."""
        self.answers += 1
        return self.tags[self.answers - 1]

    def say(self, size: int) -> None:
        piece, self.outbox = self.outbox[:size], self.outbox[size:]
        if piece:  # an empty one would be the end
            self._coming.put_nowait(piece)

    def end(self) -> None:
        self.ended = True
        self._coming.put_nowait(b"")

    def reset(self) -> None:
        self.ended = True
        self._coming.put_nowait(ConnectionResetError("reset by the sandbox"))

    def stall(self, *, takes: bool) -> None:
        """Stop taking what is sent, or take it again."""
        if takes:
            self._takes.set()
        else:
            self._takes.clear()


class Sandboxes(httpcore.AsyncNetworkBackend):
    """Connects at once, later, or not at all, as it is told."""

    def __init__(self) -> None:
        self.streams: list[SandboxStream] = []
        self.mood = "connects"
        self.dials: list[asyncio.Future[None]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> SandboxStream:
        if self.mood == "waits":
            dial: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.dials.append(dial)
            await dial
        if self.mood == "refuses":
            raise httpcore.ConnectError("refused")
        self.streams.append(SandboxStream())
        return self.streams[-1]

    def let_dial(self, *, connect: bool) -> None:
        """End the dials that wait."""
        for dial in self.dials:
            if not dial.done():
                if connect:
                    dial.set_result(None)
                else:
                    dial.set_exception(httpcore.ConnectTimeout("no answer"))
        self.dials.clear()

    @property
    def open(self) -> list[SandboxStream]:
        return [stream for stream in self.streams if not stream.closed]

    @property
    def talking(self) -> list[SandboxStream]:
        """Those whose sandbox has not ended."""
        return [stream for stream in self.open if not stream.ended]


SETTINGS: Final = Settings(
    dial_retry=0.0,
    shutdown_grace=60.0,
    max_per_sandbox=2,
    max_keepalive=2,
    websocket_max_per_client=1,
    websocket_idle_timeout=100.0,
    websocket_max_message=64,
)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)

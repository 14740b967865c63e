"""One connection to a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

import httpcore

from fastrouter.errors import (
    UPSTREAM_CLOSED,
    UPSTREAM_PROTOCOL_ERROR,
    MalformedMessageError,
    RouterError,
    TruncatedMessageError,
)
from fastrouter.net.connection import MAX_UNREAD, Connection
from fastrouter.net.stream import TransportStream
from fastrouter.wire.fields import BARE_LF
from fastrouter.wire.heads import END, END_SIZE, MAX_HEAD

if TYPE_CHECKING:
    from fastrouter.net.outbox import Outbox
    from fastrouter.net.pool import Pool
    from fastrouter.policy.plan import ResponsePlan
    from fastrouter.policy.target import Target
    from fastrouter.wire.head_cache import HeadCache

_STATUS_LINE: Final = b"HTTP/1."


class State(Enum):
    """The life of a connection: NEW -> ACTIVE <-> IDLE -> CLOSED."""

    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class Upstream(Connection, httpcore.AsyncConnectionInterface):
    """One connection to a sandbox: asyncio protocol below, httpcore's connection interface above.

    Whatever ends an exchange early, from either side, comes here through ``fail`` and is raised by the
    ``changed`` that the exchange waits in.
    """

    __slots__ = (
        "_error",
        "_heads",
        "_pool",
        "_scanned",
        "above",
        "address",
        "below",
        "bucket",
        "depth",
        "eof",
        "exchanges",
        "idle_since",
        "listener",
        "pooled",
        "silent",
        "state",
        "target",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        target: Target,
        heads: HeadCache[ResponsePlan],
        pool: Pool,
    ) -> None:
        super().__init__(loop, outbox)
        self._heads = heads
        self._pool = pool
        self._error: RouterError | None = None
        self._scanned = 0
        self.listener: Callable[[], None] = self.wake
        """Called when bytes of a response come while no pipe takes them."""
        self.target = target
        self.address = ""
        self.state = State.NEW
        self.idle_since = 0.0
        self.pooled = False
        """True while it is one of the pool's idle connections: the next four are the pool's."""
        self.above: Upstream | None = None
        self.below: Upstream | None = None
        self.depth = 0
        self.bucket: dict[Upstream, None] | None = None
        self.exchanges = 0
        self.eof = False
        self.silent = True
        """True while no byte of a response has come: the condition of a safe retry."""

    def __repr__(self) -> str:
        return f"<Upstream {self.info()}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport and note the address that was dialled."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if peer:
            self.address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"

    def data_received(self, data: bytes) -> None:
        """Take bytes of a response; a connection that speaks without being asked is closed."""
        if self.state is State.IDLE:
            self._pool.forget(self)  # now: `connection_lost` comes a turn of the event loop later
            self.abort()  # RFC 9112 9.2: nothing that it says can belong to the next request
            return
        self.silent = False
        self.moved = True
        if self.pipe is not None:
            self.pipe.feed(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        self.listener()
        if len(self.buffer) > MAX_UNREAD:
            self.pause_reading()

    def eof_received(self) -> bool:
        """Note that the sandbox closed: the end of a body, of the exchange, or of one half of a tunnel."""
        self.outbox.send()  # the transport closes when this returns
        self.eof = True
        if self.state is State.IDLE:
            self._pool.forget(self)
        elif self.pipe is not None:
            self.pipe.eof()
        else:
            self.wake()
        return self.half_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool, or fail the exchange."""
        idle = self.state is State.IDLE
        self.state = State.CLOSED
        if idle:
            self._pool.forget(self)
            return
        if not self.eof or self.half_open:
            self.fail(RouterError(UPSTREAM_CLOSED, f"connection lost: {exc}"))
        self.eof = True

    def begin(self) -> None:
        """Start an exchange on this connection."""
        self.state = State.ACTIVE
        self.waiter = None
        self.exchanges += 1
        self.silent = True
        self.moved = False
        self._scanned = 0

    def fail(self, error: RouterError) -> None:
        """End the exchange with ``error``; the first error wins."""
        if self._error is None:
            self._error = error
        self.wake()

    def malformed(self, error: MalformedMessageError) -> None:
        """End the exchange: the sandbox broke off within its body, or sent what is no body."""
        truncated = isinstance(error, TruncatedMessageError)
        self.fail(RouterError(UPSTREAM_CLOSED if truncated else UPSTREAM_PROTOCOL_ERROR, str(error)))

    def changed(self) -> asyncio.Future[None]:
        """Return what to await until a pipe ended or the connection failed; raise the failure."""
        if self._error is not None:
            raise self._error
        if self.eof and self.pipe is None:
            raise RouterError(UPSTREAM_CLOSED, "closed before the end of the response")
        return super().changed()

    def next_head(self) -> ResponsePlan | None:
        """Take a response head from the buffer, if there is a whole one; raise ``RouterError``."""
        buffer = self.buffer
        scanned = self._scanned
        end = buffer.find(END, scanned - 3 if scanned > 3 else 0, MAX_HEAD)  # noqa: PLR2004
        if end < 0:
            if len(buffer) >= MAX_HEAD or not buffer.startswith(_STATUS_LINE[: len(buffer)]):
                raise RouterError(UPSTREAM_PROTOCOL_ERROR, "no response head")
            if BARE_LF.search(buffer, max(0, scanned - 1)):
                raise RouterError(UPSTREAM_PROTOCOL_ERROR, "bare LF")
            self._scanned = len(buffer)
            return None
        end += END_SIZE
        self._scanned = 0
        self.buffer = buffer[end:]
        head = buffer[:end]
        try:
            heads = self._heads
            if (plan := heads.exact.young.get(head)) is None:
                return heads.get(head)
        except MalformedMessageError as error:
            raise RouterError(UPSTREAM_PROTOCOL_ERROR, str(error)) from error
        heads.hits += 1
        return plan

    @property
    def reusable(self) -> bool:
        """True while nothing was lost, failed, sent in excess or left unread: another exchange may follow."""
        unclean = self.eof or self._error or self.buffer or self.writing_paused
        return not (unclean or self.transport.is_closing())

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Carry a whole request by httpcore's own client (httpcore).

        For calls beside the data path: the connection leaves the pool for good, and closes with the response
        or ``aclose``. Raises httpcore's exceptions.
        """
        self._pool.forget(self)
        self.outbox.send()
        self.state = State.ACTIVE
        stream = TransportStream()
        self.transport.set_protocol(stream)
        stream.connection_made(self.transport)
        client = httpcore.AsyncHTTP11Connection(origin=request.url.origin, stream=stream)
        return await client.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connection (httpcore)."""
        self._pool.forget(self)
        self.close()

    def info(self) -> str:
        """Describe the connection (httpcore)."""
        return (
            f"{self.target.host}:{self.target.port}, HTTP/1.1, {self.state.name}, exchanges: {self.exchanges}"
        )

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        """Tell whether this connection leads to ``origin`` (httpcore)."""
        return (origin.host, origin.port) == (self.target.host.encode("ascii"), self.target.port)

    def is_available(self) -> bool:
        """Tell whether it could take a request now (httpcore)."""
        return self.state is State.IDLE

    def has_expired(self) -> bool:
        """Tell whether it should be closed: the sandbox did, or it idled too long (httpcore)."""
        return self.eof or self._pool.has_expired(self)

    def is_idle(self) -> bool:
        """Tell whether it waits in the pool (httpcore)."""
        return self.state is State.IDLE

    def is_closed(self) -> bool:
        """Tell whether it is closed (httpcore)."""
        return self.state is State.CLOSED

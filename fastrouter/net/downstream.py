"""One client connection: the keep-alive loop, and the only place where a RouterError becomes a reply."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from fastrouter.errors import (
    INTERNAL_ERROR,
    REQUEST_TIMEOUT,
    SHUTTING_DOWN,
    MalformedMessageError,
    RouterError,
)
from fastrouter.exchange import Exchange
from fastrouter.net.connection import Connection
from fastrouter.policy.target import Target
from fastrouter.telemetry.access_log import NO_SUBJECT
from fastrouter.telemetry.outcome import Outcome
from fastrouter.wire import replies
from fastrouter.wire.framing import Body, LengthBody
from fastrouter.wire.heads import END, MAX_HEAD, check_incomplete

if TYPE_CHECKING:
    from fastrouter.net.pool import Pool
    from fastrouter.policy.plan import RequestPlan
    from fastrouter.settings import Settings
    from fastrouter.telemetry.access_log import AccessLog
    from fastrouter.wire.head_cache import HeadCache

# How much of a request body is read and thrown away to save the connection, when the answer did not wait
# for it; a longer rest costs more than a new connection.
_MAX_DRAIN: Final = 256 * 1024
# After a reply that closes, how long and how much is still read: closing with unread bytes makes the kernel
# send RST, and the client may never see the reply (RFC 9112 9.6).
_LINGER_SECONDS: Final = 2.0
_MAX_LINGER: Final = 1024 * 1024

# A client that takes nothing of its last answer for this long after the connection was closed is cut off:
# `close` alone waits for it for ever.
_FLUSH_SECONDS: Final = 30.0

# nginx' number for a request whose client left before the answer: it is in the log only.
_CLIENT_CLOSED: Final = 499

_log = logging.getLogger(__name__)


class Phase(Enum):
    """What a client connection waits for, which decides its deadline."""

    HEAD = "head"
    IDLE = "idle"
    EXCHANGE = "exchange"
    CLOSING = "closing"


# Python 3.11 looks members of an enum up slowly: these two are needed for every request.
_IDLE: Final = Phase.IDLE
_EXCHANGE: Final = Phase.EXCHANGE


class Owner(Protocol):
    """What a connection needs of the server that accepted it."""

    settings: Settings
    pool: Pool
    request_heads: HeadCache[RequestPlan]
    access_log: AccessLog | None
    shutting_down: bool
    requests: int
    errors: int

    def opened(self, connection: Downstream) -> None:
        """Register the connection."""

    def closed(self, connection: Downstream) -> None:
        """Forget the connection."""


class Downstream(Connection):
    """One client connection and its one task."""

    __slots__ = ("_exchange", "_owner", "_task", "_timed_out", "deadline", "peer", "phase")

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        super().__init__(loop)
        self._owner = owner
        self._exchange: Exchange
        self._task: asyncio.Task[None] | None = None
        self._timed_out = False
        self.peer = ""
        self.phase = Phase.HEAD
        self.deadline = math.inf

    def __repr__(self) -> str:
        return f"<Downstream {self.peer} {self.phase.value} unread={len(self.buffer)}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register, and start the task."""
        super().connection_made(transport)
        settings = self._owner.settings
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else "unknown"
        self._exchange = Exchange(self, self.peer, self._owner.pool, timeout=settings.proxy_timeout)
        self.deadline = time.monotonic() + settings.request_head_timeout
        self._owner.opened(self)
        self._task = self.loop.create_task(self._serve())

    def eof_received(self) -> None:
        """Take the client's FIN as its leaving, as nginx and uvicorn do: who sent it may be gone for good."""
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the task; its ``finally`` clauses close what is open on the other side."""
        self._gone()
        self._owner.closed(self)

    def _gone(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        """Answer requests, one at a time and in order, until the connection ends."""
        try:
            while await self._answer_next():
                if (self.writing_paused or self.buffer) and not await self._catch_up():
                    break
        finally:
            self._task = None
            self._enter(Phase.CLOSING, _FLUSH_SECONDS)
            self.transport.close()

    async def _catch_up(self) -> bool:
        """Let others have a turn before a pipelined request, and wait for a client that reads no answers."""
        await asyncio.sleep(0)
        while self.writing_paused and not self._timed_out:
            self.pause_reading()
            await self.changed()
        return not self._timed_out

    def resume_writing(self) -> None:
        """Go on with the requests that waited for the client to take its answers."""
        super().resume_writing()
        self.wake()

    async def _answer_next(self) -> bool:
        """Read one request and answer it; return whether the connection goes on."""
        try:
            plan = await self._read_head()
        except MalformedMessageError as error:
            outcome = Outcome(time.monotonic())
            fault = RouterError(error.cause, str(error))
        except RouterError as error:
            outcome = Outcome(time.monotonic())
            fault = error
        else:
            return plan is not None and await self._answer(plan)
        self._reply(fault, None, outcome, close=True)
        self._account(NO_SUBJECT, outcome)
        await self._linger()
        return False

    async def _read_head(self) -> RequestPlan | None:
        """Return the next request; None when the connection idled to its end."""
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
            if self.phase is Phase.IDLE and buffer:
                self._enter(Phase.HEAD, self._owner.settings.request_head_timeout)
            self.resume_reading()
            await self.changed()
            if self._timed_out:
                if self.buffer:
                    raise RouterError(REQUEST_TIMEOUT)
                return None
        end += len(END)
        self.buffer = buffer[end:]
        return self._owner.request_heads.get(buffer[:end])

    def _without_empty_lines(self, buffer: bytes) -> bytes:
        """Drop empty lines before a request line (RFC 9112 2.2: some clients send one after a body)."""
        # One cut for all of them: 256 KiB of empty lines, cut one by one, would hold the loop for seconds.
        empty = 0
        while buffer.startswith(b"\r\n", empty):
            empty += 2
        self.buffer = buffer[empty:]
        return self.buffer

    async def _answer(self, plan: RequestPlan) -> bool:
        owner, exchange = self._owner, self._exchange
        outcome = Outcome(time.monotonic())
        self.phase = _EXCHANGE
        keep = plan.head.keep_alive and not owner.shutting_down
        try:
            first = exchange.take_body(plan, outcome)
            if owner.shutting_down:
                raise RouterError(SHUTTING_DOWN)
            if plan.is_health_check:
                self._answer_health_check(plan, outcome, close=not keep)
            else:
                keep = await exchange.run(plan, first, outcome, keep=keep)
        except RouterError as error:
            keep = self._fail(error, plan, outcome, keep=keep)
        except Exception:  # noqa: BLE001 - the boundary: one exchange's bug reaches no other, and is seen
            _log.exception("internal error", extra={"peer": self.peer})
            keep = self._fail(RouterError(INTERNAL_ERROR), plan, outcome, keep=False)
        finally:
            self._account(plan.log_subject, outcome)
        if exchange.body is None:
            return keep
        return await self._finish_request(exchange.body, plan, keep=keep)

    def _answer_health_check(self, plan: RequestPlan, outcome: Outcome, *, close: bool) -> None:
        outcome.status = HTTPStatus.OK
        self.write(replies.HEALTHY[close, plan.head.method == b"HEAD"])

    def _fail(self, error: RouterError, plan: RequestPlan, outcome: Outcome, *, keep: bool) -> bool:
        """Turn an error into a reply, or into truncation where a response has begun."""
        if outcome.status:
            outcome.reason = error.cause.reason
            self.reset()
            return False
        keep = keep and error.cause is not REQUEST_TIMEOUT and self._may_drain(plan)
        self._reply(error, plan, outcome, close=not keep)
        return keep

    def _reply(self, error: RouterError, plan: RequestPlan | None, outcome: Outcome, *, close: bool) -> None:
        cause = error.cause
        outcome.status = cause.status
        outcome.reason = cause.reason
        target = plan.target if plan is not None else None
        sandbox = target.key.sandbox_id if isinstance(target, Target) else ""
        head_only = plan is not None and plan.head.method == b"HEAD"
        detail = error.detail(sandbox)
        self.write(replies.error_reply(cause.status, detail, cause.reason, close=close, head_only=head_only))

    def _account(self, subject: str, outcome: Outcome) -> None:
        """Count the request and write its line; an exchange without a status was left by its client."""
        owner = self._owner
        now = time.monotonic()
        owner.requests += 1
        if not outcome.status or (self._task is not None and self._task.cancelling()):
            outcome.status = outcome.status or _CLIENT_CLOSED
            outcome.reason = outcome.reason or "client_closed"
        if outcome.reason:
            owner.errors += 1
        if owner.access_log is not None:
            owner.access_log.record(subject, outcome, now - outcome.started)
        self.phase = _IDLE
        self.deadline = now + owner.settings.client_keepalive

    def _may_drain(self, plan: RequestPlan) -> bool:
        """Tell whether the end of the request is known and near enough to read up to it."""
        body = self._exchange.body
        if body is None or body.done:
            return True
        held_back = plan.head.expects_continue and not body.total
        return isinstance(body, LengthBody) and body.remaining <= _MAX_DRAIN and not held_back

    async def _finish_request(self, body: Body, plan: RequestPlan, *, keep: bool) -> bool:
        """Read what the answer did not wait for, so that the connection can go on or end well."""
        if body.done:
            return keep
        if not (keep and self._may_drain(plan)):
            await self._linger()
            return False
        self._enter(Phase.HEAD, self._owner.settings.request_head_timeout)
        return await self._drain(body)

    async def _drain(self, body: Body) -> bool:
        """Read up to the end of a request body; return whether it came in time."""
        while True:
            data, self.buffer = self.buffer, b""
            body.feed(data)
            if body.done:
                break
            self.resume_reading()
            await self.changed()
            if self._timed_out:
                return False
        self.buffer = body.excess
        self._enter(Phase.IDLE, self._owner.settings.client_keepalive)
        return True

    async def _linger(self) -> None:
        """Say that nothing more comes, and read on for a moment: see ``_LINGER_SECONDS``."""
        if self.transport.is_closing() or not self.transport.can_write_eof():
            return
        self._enter(Phase.CLOSING, _LINGER_SECONDS)
        self.transport.write_eof()
        seen = 0
        while seen < _MAX_LINGER and not self._timed_out:
            seen += len(self.buffer)
            self.buffer = b""
            self.resume_reading()
            await self.changed()

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self.deadline = time.monotonic() + seconds

    def tick(self, now: float) -> None:
        """Compare the deadlines with ``now``; called by the sweep."""
        if self.phase is not _EXCHANGE:
            if self._task is None and self.has_moved():
                self.deadline = now + _FLUSH_SECONDS
            elif now >= self.deadline:
                self._timed_out = True
                if self._task is None:
                    self.reset()
                else:
                    self.wake()
            return
        exchange = self._exchange
        upstream = exchange.upstream
        if upstream is None:
            return  # a dial has limits of its own
        if self.has_moved() | upstream.has_moved():
            exchange.deadline = now + self._owner.settings.proxy_timeout
        elif now >= exchange.deadline:
            exchange.expire()

    @property
    def busy(self) -> bool:
        """True while a request is being read or answered, or an answer is not yet taken."""
        if self.transport.get_write_buffer_size():
            return True
        return self.phase is not Phase.IDLE and not (self.phase is Phase.HEAD and not self.buffer)

    def finish(self) -> None:
        """Let the exchange under way be the last one: the router shuts down."""
        self._exchange.is_last = True

    def leave(self) -> None:
        """End the connection for the router's own reasons; what is unfinished is cut off."""
        if self.busy:
            self.reset()
        self._gone()

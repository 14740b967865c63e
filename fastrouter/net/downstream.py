"""One client connection: the keep-alive loop, and the only place where a RouterError becomes a reply."""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastrouter.accounts import CUT_OFF, LEFT, sandbox_of
from fastrouter.errors import (
    INTERNAL_ERROR,
    OVERLOADED,
    REQUEST_TIMEOUT,
    SHUTTING_DOWN,
    UPSTREAM_TIMEOUT,
    MalformedMessageError,
    RouterError,
)
from fastrouter.exchange import Exchange
from fastrouter.net.inbound import CLOSING, EXCHANGE, FLUSH_SECONDS, IDLE, Inbound, Phase
from fastrouter.wire import replies
from fastrouter.wire.framing import Body, LengthBody
from fastrouter.wire.heads import END, END_SIZE

if TYPE_CHECKING:
    from fastrouter.net.owner import Owner
    from fastrouter.policy.plan import RequestPlan
    from fastrouter.telemetry.outcome import Outcome
    from fastrouter.wire.head_cache import HeadCache

# How much of a request body that the answer did not wait for is read: more costs more than a new connection.
_MAX_DRAIN: Final = 256 * 1024

# nginx' number for a request whose client left before the answer, or was cut: it is in the log only.
_CLIENT_CLOSED: Final = 499

_log = logging.getLogger(__name__)


class Downstream(Inbound):
    """One client connection and its one task."""

    __slots__ = (
        *("_accounts", "_exchange", "_foreseen", "_heads", "_owner", "_task"),
        *("admitted", "peer"),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, heads: HeadCache[RequestPlan]) -> None:
        super().__init__(loop, owner.outbox, owner.settings)
        self._owner = owner
        self._heads = heads
        self._accounts = owner.accounts
        self._exchange: Exchange
        self._task: asyncio.Task[None] | None = None
        self._foreseen: tuple[bytes, RequestPlan | None] = (b"", None)
        """The last head that was known in ``_begin``: for what cannot begin, the task need not ask again."""
        self.admitted = False
        """Whether it is one of ``MAX_CONNECTIONS``; any other is told so and closed."""
        self.peer = ""

    def __repr__(self) -> str:
        return f"<Downstream {self.peer} {self.phase.value} unread={len(self.buffer)}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register, and start the task."""
        super().connection_made(transport)
        settings = self._owner.settings
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else "unknown"
        self._exchange = Exchange(self, self.peer, self._owner)
        self.deadline = time.monotonic() + settings.request_head_timeout
        self.admitted = self._owner.opened(self)
        self._task = self.loop.create_task(self._serve() if self.admitted else self._refuse())

    def data_received(self, data: bytes) -> None:
        """Begin an exchange at once where that can be done; else keep the bytes, and wake the task."""
        if self.at_rest:
            # Once: until the task has had its turn, a second piece may be the rest of this one.
            self.at_rest = False
            if self._begin(data):
                return
        super().data_received(data)

    def _begin(self, data: bytes) -> bool:
        """Begin an exchange without the task: a whole head that is known, a warm connection."""
        owner = self._owner
        end = data.find(END) + END_SIZE
        head = data[:end]
        heads = self._heads
        plan = heads.exact.young.get(head) or heads.recall(head)
        if plan is None:
            return False
        heads.hits += 1
        route = plan.route
        if (
            route is not None
            and len(data) - end <= plan.body_length
            and not (owner.shutting_down or self.writing_paused)
            and self._exchange.begin(plan, route, data[end:], self._accounts.begin(plan))
        ):
            self.phase = EXCHANGE
            return True
        self._foreseen = (head, plan)
        return False

    def answered(self, now: float) -> None:
        """Account for an exchange that ended ``now`` without the task, and wait for the next one."""
        exchange = self._exchange
        keep = exchange.keep
        self._account(exchange.plan, exchange.outcome, now)
        self.at_rest = keep and not self.buffer and not self.writing_paused
        if self.reading_paused:  # for the sandbox's sake, which has answered: the next request may come
            self.resume_reading()
        if not keep:
            self.phase = CLOSING
        if not self.at_rest:
            self.wake()

    def eof_received(self) -> bool:
        """Take the client's FIN as its leaving, as nginx and uvicorn do: who sent it may be gone for good.

        In a tunnel it ends one half.
        """
        self.outbox.send()  # the transport closes when this returns
        if self.half_open and self.pipe is not None:
            self.pipe.eof()
        else:
            self._gone()
        return self.half_open

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
                if (self.writing_paused or self.buffer) and not await self.catch_up():
                    break
            if self.buffer:
                await self.linger()  # it sends more than was asked for: RST would cost it its last answer
        finally:
            if self._exchange.under_way:  # the client left before the task was needed
                self._exchange.end()
                self._account(self._exchange.plan, self._exchange.outcome)
            self._close()

    async def _refuse(self) -> None:
        """Say that there is no room for another connection, and close."""
        try:
            await self._turn_away(RouterError(OVERLOADED))
        finally:
            self._close()

    async def _turn_away(self, error: RouterError) -> None:
        """Answer with an error where no request could be read, and end the connection."""
        outcome = self._accounts.begin(None)
        self._reply(error, None, outcome, close=True)
        self._account(None, outcome)
        await self.linger()

    def _close(self) -> None:
        self._task = None
        self.enter(CLOSING, FLUSH_SECONDS)
        self.close()

    async def _answer_next(self) -> bool:
        """Read one request and answer it; return whether the connection goes on."""
        try:
            raw = await self.read_head()
            plan = self._plan_of(raw) if raw else None
        except MalformedMessageError as error:
            fault = RouterError(error.cause, str(error))
        except RouterError as error:
            fault = error
        else:
            if plan is not None:
                return await self._answer(plan, self._accounts.begin(plan))
            return raw is not None and await self._attend()
        await self._turn_away(fault)
        return False

    def _plan_of(self, raw: bytes) -> RequestPlan:
        head, plan = self._foreseen
        if plan is None or head != raw:
            return self._heads.get(raw)
        self._foreseen = (b"", None)
        return plan

    async def _attend(self) -> bool:
        """Give the task to an exchange that began without it and needs it; return as ``_answer_next``."""
        exchange = self._exchange
        if exchange.under_way:
            return await self._answer(exchange.plan, exchange.outcome, begun=True)
        return self.phase is not CLOSING

    async def _answer(self, plan: RequestPlan, outcome: Outcome, *, begun: bool = False) -> bool:
        owner, exchange = self._owner, self._exchange
        self.phase = EXCHANGE
        keep = plan.keep_alive and not (owner.shutting_down or exchange.is_last)
        try:
            if begun:
                keep = await exchange.resume()
            else:
                first = exchange.take_body(plan, outcome)
                if owner.shutting_down:
                    raise RouterError(SHUTTING_DOWN)
                if plan.is_health_check:
                    keep = keep and self._may_drain(plan)
                    self._answer_health_check(plan, outcome, close=not keep)
                else:
                    keep = await exchange.run(plan, first, outcome, keep=keep)
        except RouterError as error:
            keep = self._fail(error, plan, outcome, keep=keep)
        except Exception:  # noqa: BLE001 - the boundary: one exchange's bug reaches no other, and is seen
            _log.exception("internal error", extra={"peer": self.peer})
            keep = self._fail(RouterError(INTERNAL_ERROR), plan, outcome, keep=False)
        finally:
            self._account(plan, outcome)
        if exchange.body is None:
            return keep
        return await self._finish_request(exchange.body, plan, keep=keep)

    def _answer_health_check(self, plan: RequestPlan, outcome: Outcome, *, close: bool) -> None:
        outcome.status = HTTPStatus.OK
        self.write(replies.HEALTHY[close, plan.method == b"HEAD"])

    def _fail(self, error: RouterError, plan: RequestPlan, outcome: Outcome, *, keep: bool) -> bool:
        """Turn an error into a reply, or into truncation where a response has begun."""
        if outcome.status:
            outcome.fail(error.cause.reason, upstreams=error.cause.blames_sandbox)
            stalls = self.writing_paused and error.cause is UPSTREAM_TIMEOUT
            if self._exchange.ends_by_close or stalls:
                self.reset()  # a FIN would be the clean end of such a body, or wait for a client that stalls
            return False  # an unfinished body, then the end of the connection: truncation
        keep = keep and not (self._owner.shutting_down or self._exchange.is_last)
        keep = keep and error.cause is not REQUEST_TIMEOUT and self._may_drain(plan)
        self._reply(error, plan, outcome, close=not keep)
        return keep

    def _reply(self, error: RouterError, plan: RequestPlan | None, outcome: Outcome, *, close: bool) -> None:
        cause = error.cause
        outcome.status = cause.status
        outcome.fail(cause.reason, upstreams=cause.blames_sandbox)
        reply = replies.error_reply(
            *(cause.status, error.detail(sandbox_of(plan)), cause.reason),
            close=close,
            head_only=plan is not None and plan.method == b"HEAD",
            lines=outcome.head_end[:-2],
        )
        self.write(reply)

    def _account(self, plan: RequestPlan | None, outcome: Outcome, now: float = 0.0) -> None:
        """Count the request and write its line; an exchange without a status was left by its client."""
        now = now or time.monotonic()
        left = self._task is not None and self._task.cancelling()
        if not outcome.status or (left and outcome.status != HTTPStatus.SWITCHING_PROTOCOLS):
            outcome.status = outcome.status or _CLIENT_CLOSED
            outcome.reason = outcome.reason or LEFT
        self.phase = IDLE
        self.deadline = now + self._settings.client_keepalive
        try:
            self._accounts.settle(plan, outcome, now)
        except Exception:  # noqa: BLE001 - the boundary: what is told of a request never fails it
            _log.exception("internal error in the account of a request", extra={"peer": self.peer})

    def _may_drain(self, plan: RequestPlan) -> bool:
        """Tell whether the end of the request is known and near enough to read up to it."""
        body = self._exchange.body
        if body is None or body.done:
            return True
        held_back = plan.expects_continue and not body.total
        return isinstance(body, LengthBody) and body.remaining <= _MAX_DRAIN and not held_back

    async def _finish_request(self, body: Body, plan: RequestPlan, *, keep: bool) -> bool:
        """Read what the answer did not wait for, so that the connection can go on or end well."""
        if body.done:
            return keep
        if not (keep and self._may_drain(plan)):
            await self.linger()
            return False
        self.enter(Phase.HEAD, self._owner.settings.request_head_timeout)
        return await self.drain(body)

    def tick(self, now: float) -> None:
        """Compare the deadlines with ``now``; called by the sweep."""
        exchange = self._exchange
        if self.phase is not EXCHANGE:
            self._tick_between(now)
        elif exchange.tunnel is not None:
            exchange.tunnel.tick(now)
        elif self.has_left():
            self._gone()
        elif exchange.upstream is not None:  # a dial has limits of its own
            if exchange.awaits_head:
                exchange.upstream.moved = False
            if self.has_moved() | exchange.upstream.has_moved():
                exchange.deadline = now + exchange.timeout
            elif now >= exchange.deadline:
                exchange.expire()

    def _tick_between(self, now: float) -> None:
        """Compare the deadlines outside an exchange."""
        if self._task is None and self.has_moved():
            self.deadline = now + FLUSH_SECONDS
        elif now >= self.deadline:
            self.timed_out = True
            self.at_rest = False  # what comes now begins nothing that the task would then cut off
            if self._task is None:
                self.reset()
            else:
                self.wake()

    def expire_idle(self) -> None:
        """End an idle connection as if its time were over."""
        if self.phase is IDLE and self._task is not None and not self.buffer:
            self.timed_out = True
            self.at_rest = False
            self.wake()

    @property
    def busy(self) -> bool:
        """True while a request is being read or answered, or an answer is not yet taken."""
        if self.transport.get_write_buffer_size():
            return True
        return bool(self.buffer) or self.phase not in {IDLE, Phase.HEAD}

    def finish(self) -> None:
        """Let the exchange under way be the last one, and a tunnel end: the router shuts down."""
        self._exchange.is_last = True
        if self._exchange.tunnel is not None:
            self._exchange.tunnel.shut_down()

    def leave(self) -> None:
        """End the connection for the router's own reasons; what is unfinished is cut off."""
        if self.phase is EXCHANGE:
            self._exchange.outcome.reason = CUT_OFF
        if self._exchange.ends_by_close:
            self.reset()
        elif self.busy:
            self.abort()
        self._gone()

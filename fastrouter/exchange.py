"""The story: one request, from its head to the release of its connections.

Read ``Exchange.run`` from top to bottom; ``docs/life-of-a-request.md`` names the file and test of each step.
``Exchange.begin`` is the same story where nothing has to be waited for: see docs/decisions/0008.
"""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from fastrouter.errors import (
    REQUEST_TIMEOUT,
    UPSTREAM_CLOSED,
    UPSTREAM_TIMEOUT,
    MalformedMessageError,
    RouterError,
)
from fastrouter.net.dialer import Attempts
from fastrouter.net.splice import Pipe
from fastrouter.policy import rewrite
from fastrouter.policy.authorize import authorize
from fastrouter.policy.forwarded import client_address, is_trusted
from fastrouter.response import ResponseSide, nothing
from fastrouter.wire.framing import ChunkedBody, LengthBody

if TYPE_CHECKING:
    from fastrouter.net.downstream import Downstream
    from fastrouter.net.owner import Owner
    from fastrouter.net.pool import Lease
    from fastrouter.policy.plan import RequestPlan
    from fastrouter.policy.target import PoolKey, Target
    from fastrouter.telemetry.outcome import Outcome


class Exchange(ResponseSide):
    """Carries the requests of one client connection, one after the other."""

    __slots__ = (
        "_bulkhead",
        "_entered",
        "_first",
        "_lease",
        "_owner",
        "_peer",
        "_peer_line",
        "_pool",
        "_replayable",
        "_token",
        "_trusted",
        "deadline",
        "timeout",
    )

    def __init__(self, client: Downstream, peer: str, owner: Owner) -> None:
        super().__init__(client, owner)
        self._owner = owner
        self._pool = owner.pool
        # A token in the environment need not be UTF-8: os.environ hands such bytes on as surrogates.
        self._token = owner.settings.auth_token.encode("utf-8", "surrogateescape")
        self._peer = peer
        self._peer_line = peer.encode("ascii") + b"\r\n"
        self._trusted = is_trusted(peer, owner.settings.trusted_proxies)
        self._bulkhead = owner.bulkhead
        self._entered: PoolKey | None = None
        self._lease: Lease | None = None
        self._first = b""
        self._replayable = False
        self.timeout = owner.settings.proxy_timeout
        """Longest silence of the exchange under way, seconds."""
        self.deadline = math.inf
        """When the exchange has been silent for too long; monotonic seconds."""

    def take_body(self, plan: RequestPlan, outcome: Outcome) -> bytes:
        """Take what has come of the request body; call it before anything that may answer.

        Malformed chunks that came with the head raise ``RouterError`` here, before a sandbox sees anything.
        """
        client = self._client
        held = client.buffer
        length = plan.body_length
        self.body = None
        if 0 <= length <= len(held):
            client.buffer = held[length:]
            outcome.bytes_in = length
            return held[:length]
        self.body = LengthBody(length) if length > 0 else self._chunked()
        client.buffer = b""
        try:
            first = self.body.feed(held)
        except MalformedMessageError as error:
            raise RouterError(error.cause, str(error)) from error
        if self.body.done:
            client.buffer = self.body.excess
        return first

    def _chunked(self) -> ChunkedBody:
        return ChunkedBody(rewrite.trailers, limit=self._owner.settings.max_body)

    def run(
        self, plan: RequestPlan, first: bytes, outcome: Outcome, *, keep: bool
    ) -> Coroutine[None, None, bool]:
        """Carry one request to its sandbox and the response back; ``first`` is what ``take_body`` gave.

        Await it; it tells whether the client's connection may carry another one (``keep``: if at all).
        Raises ``RouterError``: while ``outcome.status`` is 0 it can become a reply, afterwards the client has
        to see truncation. Cancelled when the client goes away: the sandbox's connection is closed at once.
        """
        if self._token:
            authorize(plan.credentials, self._token)
            self._owner.metrics.allowed += 1
        if isinstance(plan.target, RouterError):
            raise plan.target.again()
        self.plan, self.outcome, self.keep = plan, outcome, keep
        if plan.upgrade:
            return self._carry_counted(plan.target, first)
        return self._carry(plan.target, first)

    async def _carry_counted(self, target: Target, first: bytes) -> bool:
        """Carry a request that may become a tunnel, within its client's share of them."""
        proxies = self._owner.settings.trusted_proxies
        client = client_address(self._peer, self.plan.forwarded_for, proxies)
        self._tunnels.enter(client)
        try:
            return await self._carry(target, first)
        finally:
            self._tunnels.leave(client)

    async def _carry(self, target: Target, first: bytes) -> bool:
        plan = self.plan
        self.timeout = plan.timeout or self._owner.settings.proxy_timeout
        if plan.timeout_fault is not None:
            self._owner.warn_of_timeout(plan.timeout_fault)
        self._replayable = plan.is_idempotent and self._request_sent()
        if self._bulkhead is not None:
            self._bulkhead.enter(target.key)
            self._entered = target.key
        try:
            lease = self._pool.reuse(target) or await self._dial(target)
            self._send_request(lease, first, time.monotonic())
            return await self._finish(target, first)
        finally:
            self.end()

    async def _dial(self, target: Target) -> Lease:
        attempts = Attempts()
        began = time.monotonic()
        try:
            return await self._pool.dial(target, self.timeout, attempts)
        finally:
            now = time.monotonic()
            self.outcome.dials += attempts.count
            self.outcome.dial_seconds += now - began
            if self.outcome.trace is not None:
                self.outcome.trace.resolved = attempts.resolved
                self.outcome.trace.connected = now

    def begin(self, plan: RequestPlan, route: Target, first: bytes, outcome: Outcome) -> bool:
        """Begin an exchange for which nothing has to be waited for, and tell whether that could be done.

        For a plan with a ``route``, and what came of its body. The end of the response ends the exchange in
        the sandbox's ``data_received``, and no task is woken on the way: that was a third of the router's
        time. Whatever else happens wakes the client's task, which goes on with ``resume``.
        """
        if self._token:
            try:
                authorize(plan.credentials, self._token)
            except RouterError:
                return False  # `run` will say so, and count it
        if self._bulkhead is not None and self._bulkhead.is_full(route.key):
            return False  # likewise
        now = outcome.started
        lease = self._pool.reuse(route, now)
        if lease is None:
            return False
        if self._bulkhead is not None:
            self._bulkhead.enter(route.key)
            self._entered = route.key
        self.plan, self.outcome, self.keep = plan, outcome, True
        self.timeout = plan.timeout or self._owner.settings.proxy_timeout
        self.body = None
        self._replayable = False
        if len(first) < plan.body_length:
            self.body = LengthBody(plan.body_length)
            self.body.feed(first)
        elif plan.is_idempotent:
            self._replayable = True
            self._first = first
        self.unattended = True
        if self._token:
            self._owner.metrics.allowed += 1
        outcome.bytes_in = len(first)
        lease.connection.waiter = self._client.waiter
        self._send_request(lease, first, now)
        return True

    @property
    def under_way(self) -> bool:
        """True from the sending of a request to the end of its exchange."""
        return self._lease is not None

    async def resume(self) -> bool:
        """Go on with what ``begin`` began, now with a task that can wait; the rest is as in ``run``."""
        self.unattended = False
        try:
            return await self._finish(self._under_way().connection.target, self._first)
        finally:
            self.end()

    async def _finish(self, target: Target, first: bytes) -> bool:
        """Wait for the end of the response; send the request once more where that is safe."""
        # The response is sent on from the sandbox's data_received: see ResponseSide.
        lease = self._under_way()
        try:
            while not self._done:
                await lease.connection.changed()
        except RouterError as error:
            if self.tunnel is not None and self.tunnel.has_last_word:
                return False  # the sandbox had ended its half: the loss of the rest is the end
            if not (self._replayable and _went_stale(lease, error)):
                raise
            lease.discard()
            self._owner.metrics.replayed += 1
            lease = await self._dial(target)
            self._send_request(lease, first, time.monotonic())
            while not self._done:
                await lease.connection.changed()
        if self.tunnel is None and self._response.keep_alive and self._request_sent():
            lease.release()
        return self.keep

    def _send_request(self, lease: Lease, first: bytes, now: float) -> None:
        self._lease = lease
        upstream = self.upstream = lease.connection
        upstream.listener = self._response_came
        self._done = False
        self.ends_by_close = False
        self._relayed = 0
        outcome = self.outcome
        outcome.upstream = upstream.address
        outcome.reused = lease.reused
        self.deadline = now + self.timeout
        self._client.moved = False
        plan = self.plan
        head = plan.trusted_head if self._trusted else plan.upstream_head
        # The client's own id is in the head already.
        end = b"\r\n" if outcome.request_id == plan.request_id else outcome.head_end
        if outcome.trace is not None:
            end = outcome.trace.lines + end
        head += self._peer_line + end
        if self.unattended:
            upstream.post(head, first)
        else:
            upstream.write_both(head, first)
        if self.body is not None and not self.body.done:
            Pipe(self._client, upstream, self.body, nothing, self._client_failed).attach()
        if upstream.buffer:
            self._response_came()  # it spoke before it was asked: nothing more may come to wake anyone
            if upstream.eof and upstream.pipe is not None:
                upstream.pipe.eof()  # it has ended as well, when nobody was there to be told

    def _complete(self) -> None:
        lease = self._lease
        now = time.monotonic()
        if lease is not None and self._response.keep_alive:
            lease.release(now)
        self.end()
        self._client.answered(now)

    def end(self) -> None:
        """Let go of everything; an unreleased lease is discarded, which closes the sandbox's connection."""
        if self._entered is not None and self._bulkhead is not None:
            self._bulkhead.leave(self._entered)
            self._entered = None
        lease, self._lease = self._lease, None
        if lease is None:
            return
        upstream = lease.connection
        upstream.listener = nothing
        if upstream.pipe is not None:
            upstream.pipe.detach()
        if self._client.pipe is not None:
            self._client.pipe.detach()
        if self.body is not None:
            self.outcome.bytes_in = self.body.total
        if self._response_body is not None:
            self.outcome.bytes_out = self._response_body.total
            self._response_body = None
        if self.tunnel is not None:
            self.outcome.bytes_in = self.tunnel.up.body.total
            self.outcome.bytes_out = self.tunnel.down.body.total
            self.tunnel = None
            self._client.half_open = upstream.half_open = False
        self._first = b""
        self.unattended = False
        self.upstream = None
        self.deadline = math.inf
        lease.discard()

    def _under_way(self) -> Lease:
        assert self._lease is not None  # noqa: S101 - asked for within an exchange only
        return self._lease

    def _client_failed(self, error: MalformedMessageError) -> None:
        """End the exchange: the client's body is malformed."""
        if self.upstream is not None:
            self.upstream.fail(RouterError(error.cause, str(error)))

    @property
    def awaits_head(self) -> bool:
        """True while no final response head has come: a trickle of it does not prolong its time."""
        return not self._done and self._response_body is None

    def expire(self) -> None:
        """End the exchange: no byte has moved for the whole timeout."""
        if self.upstream is None:
            return
        waits_for_client = not self._request_sent() and not self._client.reading_paused
        self.upstream.fail(RouterError(REQUEST_TIMEOUT if waits_for_client else UPSTREAM_TIMEOUT))


def _went_stale(lease: Lease, error: RouterError) -> bool:
    """Tell whether a kept connection turned out dead without a byte of an answer (RFC 9112 9.3.1)."""
    return lease.reused and error.cause is UPSTREAM_CLOSED and lease.connection.silent

"""The story: one request, from its head to the release of its connections.

Read ``Exchange.run`` from top to bottom; ``docs/life-of-a-request.md`` names the file and test of each step.
"""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastrouter.errors import (
    REQUEST_TIMEOUT,
    UPSTREAM_CLOSED,
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_TIMEOUT,
    MalformedMessageError,
    RouterError,
)
from fastrouter.net.splice import Pipe
from fastrouter.policy import rewrite
from fastrouter.policy.target import resolve_target
from fastrouter.wire.framing import Body, body_for

if TYPE_CHECKING:
    from fastrouter.net.connection import Connection
    from fastrouter.net.pool import Lease, Pool
    from fastrouter.net.upstream import Upstream
    from fastrouter.policy.plan import RequestPlan, ResponsePlan
    from fastrouter.telemetry.outcome import Outcome


class Exchange:
    """Carries the requests of one client connection, one after the other."""

    __slots__ = ("_client", "_cluster_domain", "_peer", "_pool", "_timeout", "body", "deadline", "upstream")

    def __init__(
        self, client: Connection, peer: str, pool: Pool, *, timeout: float, cluster_domain: str
    ) -> None:
        self._client = client
        self._pool = pool
        self._timeout = timeout
        self._cluster_domain = cluster_domain
        self._peer = peer.encode("ascii") + b"\r\n\r\n"
        self.body: Body | None = None
        """The request body, where it had not come whole with its head."""
        self.upstream: Upstream | None = None
        """The sandbox's connection, from the sending of the request to the end of the response."""
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
        self.body = body_for(plan.head.framing, rewrite.trailers)
        client.buffer = b""
        try:
            first = self.body.feed(held)
        except MalformedMessageError as error:
            raise RouterError(error.cause, str(error)) from error
        if self.body.done:
            client.buffer = self.body.excess
        return first

    async def run(self, plan: RequestPlan, first: bytes, outcome: Outcome, *, keep: bool) -> bool:
        """Carry one request to its sandbox and the response back; ``first`` is what ``take_body`` gave.

        Returns whether the client's connection may carry another one (``keep``: whether it may at all).
        Raises ``RouterError``: while ``outcome.status`` is 0 it can become a reply, afterwards the client has
        to see truncation. Cancelled when the client goes away: the sandbox's connection is closed at once.
        """
        target = plan.target or resolve_target(plan.head.fields, self._cluster_domain)
        lease = self._pool.reuse(target) or await self._pool.dial(target, self._timeout)
        try:
            self._send_request(lease, plan, first, outcome)
            try:
                response = await self._response(lease.connection, plan)
            except RouterError as error:
                if not self._may_repeat(lease, plan, error):
                    raise
                lease.discard()
                lease = await self._pool.dial(target, self._timeout)
                self._send_request(lease, plan, first, outcome)
                response = await self._response(lease.connection, plan)
            keep = await self._send_response(lease.connection, plan, response, outcome, keep=keep)
            if response.head.keep_alive and self._request_sent():
                lease.release()
            return keep
        finally:
            self.upstream = None
            self.deadline = math.inf
            if self._client.pipe is not None:
                self._client.pipe.detach()
            if self.body is not None:
                outcome.bytes_in = self.body.total
            lease.discard()

    def _send_request(self, lease: Lease, plan: RequestPlan, first: bytes, outcome: Outcome) -> None:
        upstream = self.upstream = lease.connection
        outcome.upstream = upstream.address
        outcome.reused = lease.reused
        self.deadline = time.monotonic() + self._timeout
        self._client.moved = False
        upstream.write(b"".join((plan.upstream_head, self._peer, first)))
        if not self._request_sent():
            Pipe(self._client, upstream, self._open_body(), _nothing, self._client_failed).attach()

    async def _response(self, upstream: Upstream, plan: RequestPlan) -> ResponsePlan:
        """Wait for the final response head, relaying informational ones (RFC 9110 15.2)."""
        while True:
            response = await upstream.response_head()
            head = response.head
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise RouterError(UPSTREAM_PROTOCOL_ERROR, "101 to a request that asked for no upgrade")
            if not head.informational:
                return response
            if plan.head.http11:
                self._client.write(response.kept_head)

    def _may_repeat(self, lease: Lease, plan: RequestPlan, error: RouterError) -> bool:
        """Tell whether the request may be sent once more (RFC 9112 9.3.1, RFC 9110 9.2.2).

        Only after a kept connection turned out dead without a byte of an answer, and only a request that
        does no harm when it ran already and whose body is still here.
        """
        stale = lease.reused and error.cause is UPSTREAM_CLOSED and lease.connection.silent
        return stale and plan.is_idempotent and self._request_sent()

    async def _send_response(
        self, upstream: Upstream, plan: RequestPlan, response: ResponsePlan, outcome: Outcome, *, keep: bool
    ) -> bool:
        client = self._client
        held = upstream.buffer
        outcome.status = response.head.status
        if keep and plan.usual_reply and response.length == len(held) and self._request_sent():
            upstream.buffer = b""
            outcome.bytes_out = len(held)
            client.write(response.kept_head + held)
            return True
        head = response.head
        method, http11 = plan.head.method, plan.head.http11
        keep = (
            keep and not rewrite.closes(head, http11=http11, method=method) and not self._is_held_back(plan)
        )
        client.write(rewrite.response_head(head, http11=http11, close=not keep))
        body = body_for(head.framing_for(method), rewrite.trailers, reframe=http11)
        await self._splice(upstream, body, outcome)
        return keep

    async def _splice(self, upstream: Upstream, body: Body, outcome: Outcome) -> None:
        """Send the response body on as it comes, until it is complete."""
        if body.done:
            return
        pipe = Pipe(upstream, self._client, body, upstream.wake, upstream.malformed)
        try:
            pipe.attach()
            if upstream.eof and not body.done:
                pipe.eof()
            while not body.done:
                await upstream.changed()
        finally:
            pipe.detach()
            outcome.bytes_out = body.total

    def _request_sent(self) -> bool:
        return self.body is None or self.body.done

    def _open_body(self) -> Body:
        assert self.body is not None  # noqa: S101 - _request_sent() was False
        return self.body

    def _is_held_back(self, plan: RequestPlan) -> bool:
        """Tell whether the client waits for a 100 that will not come: nobody knows if its body will."""
        return plan.head.expects_continue and not self._request_sent() and self._open_body().total == 0

    def _client_failed(self, error: MalformedMessageError) -> None:
        """End the exchange: the client's body is malformed."""
        if self.upstream is not None:
            self.upstream.fail(RouterError(error.cause, str(error)))

    def expire(self) -> None:
        """End the exchange: no byte has moved for the whole timeout."""
        if self.upstream is None:
            return
        waits_for_client = not self._request_sent() and not self._client.reading_paused
        self.upstream.fail(RouterError(REQUEST_TIMEOUT if waits_for_client else UPSTREAM_TIMEOUT))


def _nothing() -> None:
    """Do nothing at the end of a request body: the response is what the exchange waits for."""

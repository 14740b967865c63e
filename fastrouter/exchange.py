"""The story: one request, from its head to the release of its connections.

Read ``Exchange.run`` from top to bottom; ``docs/life-of-a-request.md`` names the file and test of each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastrouter.errors import (
    REQUEST_TIMEOUT,
    UPSTREAM_CLOSED,
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_TIMEOUT,
    MalformedMessageError,
    RouterError,
)
from fastrouter.net.splice import Pipe
from fastrouter.net.tunnel import Tunnel
from fastrouter.policy import rewrite
from fastrouter.policy.authorize import authorize
from fastrouter.policy.forwarded import client_address, is_trusted
from fastrouter.wire.fields import values
from fastrouter.wire.framing import Body, body_for
from fastrouter.wire.heads import MAX_HEAD

if TYPE_CHECKING:
    from fastrouter.net.connection import Connection
    from fastrouter.net.downstream import Owner
    from fastrouter.net.pool import Lease
    from fastrouter.net.upstream import Upstream
    from fastrouter.policy.plan import RequestPlan, ResponsePlan
    from fastrouter.policy.target import Target
    from fastrouter.telemetry.outcome import Outcome

# Up to this many bytes, copying a body behind its head is cheaper than a second buffer in the same writev.
_WORTH_JOINING: Final = 16 * 1024


class Exchange:
    """Carries the requests of one client connection, one after the other."""

    __slots__ = (
        "_client",
        "_done",
        "_keep",
        "_outcome",
        "_owner",
        "_peer",
        "_peer_line",
        "_plan",
        "_pool",
        "_relayed",
        "_response",
        "_response_body",
        "_token",
        "_trusted",
        "_tunnels",
        "body",
        "deadline",
        "ends_by_close",
        "is_last",
        "timeout",
        "tunnel",
        "upstream",
    )

    def __init__(self, client: Connection, peer: str, owner: Owner) -> None:
        self._client = client
        self._owner = owner
        self._pool = owner.pool
        self._tunnels = owner.tunnels
        # A token in the environment need not be UTF-8: os.environ hands such bytes on as surrogates.
        self._token = owner.settings.auth_token.encode("utf-8", "surrogateescape")
        self._peer = peer
        self._peer_line = peer.encode("ascii") + b"\r\n\r\n"
        self._trusted = is_trusted(peer, owner.settings.trusted_proxies)
        self.timeout = owner.settings.proxy_timeout
        """Longest silence of the exchange under way, seconds."""
        self.tunnel: Tunnel | None = None
        """After 101: what passes both ways until the end of the connections."""
        self._plan: RequestPlan
        self._outcome: Outcome
        self._response: ResponsePlan
        self._response_body: Body | None = None
        self._relayed = 0
        self._keep = False
        self._done = False
        self.body: Body | None = None
        """The request body, where it had not come whole with its head."""
        self.upstream: Upstream | None = None
        """The sandbox's connection, from the sending of the request to the end of the response."""
        self.deadline = math.inf
        """When the exchange has been silent for too long; monotonic seconds."""
        self.ends_by_close = False
        """True while a response is sent whose body ends with the client's connection."""
        self.is_last = False
        """Set at shutdown: the response that has not begun yet says ``Connection: close``."""

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
        if isinstance(plan.target, RouterError):
            raise plan.target.again()
        self._plan, self._outcome, self._keep = plan, outcome, keep
        if plan.upgrade:
            return self._carry_counted(plan.target, first)
        return self._carry(plan.target, first)

    async def _carry_counted(self, target: Target, first: bytes) -> bool:
        """Carry a request that may become a tunnel, within its client's share of them."""
        proxies = self._owner.settings.trusted_proxies
        client = client_address(self._peer, self._plan.forwarded_for, proxies)
        self._tunnels.enter(client)
        try:
            return await self._carry(target, first)
        finally:
            self._tunnels.leave(client)

    async def _carry(self, target: Target, first: bytes) -> bool:
        plan = self._plan
        self.timeout = plan.timeout or self._owner.settings.proxy_timeout
        if plan.timeout_fault is not None:
            self._owner.warn_of_timeout(plan.timeout_fault)
        replayable = plan.is_idempotent and self._request_sent()
        lease = self._pool.reuse(target) or await self._pool.dial(target, self.timeout)
        try:
            self._send_request(lease, first)
            # The response is sent on from the sandbox's data_received: see _response_came.
            try:
                while not self._done:
                    await lease.connection.changed()
            except RouterError as error:
                if self.tunnel is not None and self.tunnel.has_last_word:
                    return False  # the sandbox had ended its half: the loss of the rest is the end
                if not (replayable and _went_stale(lease, error)):
                    raise
                lease.discard()
                lease = await self._pool.dial(target, self.timeout)
                self._send_request(lease, first)
                while not self._done:
                    await lease.connection.changed()
            if self.tunnel is None and self._response.head.keep_alive and self._request_sent():
                lease.release()
            return self._keep
        finally:
            self._end(lease)

    def _send_request(self, lease: Lease, first: bytes) -> None:
        upstream = self.upstream = lease.connection
        upstream.listener = self._response_came
        self._done = False
        self.ends_by_close = False
        self._relayed = 0
        self._outcome.upstream = upstream.address
        self._outcome.reused = lease.reused
        self.deadline = time.monotonic() + self.timeout
        self._client.moved = False
        head = self._plan.trusted_head if self._trusted else self._plan.upstream_head
        if len(first) < _WORTH_JOINING:
            upstream.write(b"".join((head, self._peer_line, first)))
        else:
            upstream.write(head + self._peer_line)
            upstream.write(first)
        if not self._request_sent():
            Pipe(self._client, upstream, self._open_body(), _nothing, self._client_failed).attach()
        if upstream.buffer:
            self._response_came()  # it spoke before it was asked: nothing more may come to wake anyone
            if upstream.eof and upstream.pipe is not None:
                upstream.pipe.eof()  # it has ended as well, when nobody was there to be told

    def _response_came(self) -> None:
        """Take response heads as they come, the informational ones first (RFC 9110 15.2).

        Called from the sandbox's ``data_received``, not from the task: a body goes on to the client while it
        is still in the processor's cache. Waking the task first cost 1 MB downloads a third of their speed.
        """
        upstream = self._upstream()
        try:
            while (response := upstream.next_head()) is not None:
                if response.is_final:
                    self._begin_response(upstream, response)
                    return
                if response.head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                    self._switch(upstream, response)
                    return
                self._relay_informational(response)
        except RouterError as error:
            upstream.fail(error)

    def _relay_informational(self, response: ResponsePlan) -> None:
        # No pipe holds these back: without a limit, a client that does not read would be memory here.
        self._relayed += len(response.kept_head)
        if self._relayed > MAX_HEAD:
            raise RouterError(UPSTREAM_PROTOCOL_ERROR, "too many informational responses")
        self._client.moved = True  # the sandbox says that it works on it: the time starts over
        if self._plan.head.http11:
            self._client.write(response.kept_head)

    def _switch(self, upstream: Upstream, response: ResponsePlan) -> None:
        """Make a tunnel of the two connections; what either side sent already goes first."""
        plan = self._plan
        protocols = [value.strip().lower() for value in values(response.head.fields, b"upgrade")]
        if not plan.upgrade or protocols != [plan.upgrade.lower()]:
            raise RouterError(UPSTREAM_PROTOCOL_ERROR, "101 for a protocol that was not asked for")
        if upstream.eof:
            raise RouterError(UPSTREAM_CLOSED, "switched before it was asked, and closed")
        upstream.listener = _nothing
        self._outcome.status = response.head.status
        self._keep = False
        self._client.write(rewrite.switching_head(response.head))
        frames = plan.upgrade.lower() == b"websocket"
        self.ends_by_close = not frames  # a WebSocket says itself where it ends
        limits = self._tunnels.limits
        self.tunnel = Tunnel(self._client, upstream, limits, self._response_ended, frames=frames)
        self.tunnel.open(time.monotonic())
        if self.is_last:
            self.tunnel.shut_down()  # the shutdown began while the sandbox thought about it

    def _begin_response(self, upstream: Upstream, response: ResponsePlan) -> None:
        """Send the head and what has come of the body; where more is to come, a pipe sends the rest."""
        plan, client = self._plan, self._client
        upstream.listener = _nothing
        self._response = response
        self._outcome.status = response.head.status
        self._keep = self._keep and not self.is_last
        held = upstream.buffer
        if self._keep and plan.usual_reply and response.length == len(held) and self._request_sent():
            upstream.buffer = b""
            self._outcome.bytes_out = len(held)
            client.write(response.kept_head + held)
            self._response_ended()
            return
        method, http11 = plan.head.method, plan.head.http11
        self.ends_by_close = rewrite.closes(response.head, http11=http11, method=method)
        self._keep = self._keep and not self.ends_by_close and not self._is_held_back()
        client.write(rewrite.response_head(response.head, http11=http11, close=not self._keep))
        body = body_for(response.head.framing_for(method), rewrite.trailers, reframe=http11)
        if body.done:
            self._response_ended()
        else:
            self._response_body = body
            Pipe(upstream, client, body, self._response_ended, upstream.malformed).attach()

    def _response_ended(self) -> None:
        self._done = True
        self._upstream().wake()

    def _end(self, lease: Lease) -> None:
        """Let go of everything; an unreleased lease is discarded, which closes the sandbox's connection."""
        upstream = lease.connection
        upstream.listener = _nothing
        for pipe in (self._client.pipe, upstream.pipe):
            if pipe is not None:
                pipe.detach()
        if self.body is not None:
            self._outcome.bytes_in = self.body.total
        if self._response_body is not None:
            self._outcome.bytes_out = self._response_body.total
            self._response_body = None
        if self.tunnel is not None:
            self._outcome.bytes_in = self.tunnel.up.body.total
            self._outcome.bytes_out = self.tunnel.down.body.total
            self.tunnel = None
            self._client.half_open = upstream.half_open = False
        self.upstream = None
        self.deadline = math.inf
        lease.discard()

    def _request_sent(self) -> bool:
        return self.body is None or self.body.done

    def _open_body(self) -> Body:
        assert self.body is not None  # noqa: S101 - _request_sent() was False
        return self.body

    def _upstream(self) -> Upstream:
        assert self.upstream is not None  # noqa: S101 - only an upstream calls what asks for it
        return self.upstream

    def _is_held_back(self) -> bool:
        """Tell whether the client waits for a 100 that will not come: nobody knows if its body will."""
        expects = self._plan.head.expects_continue
        return expects and not self._request_sent() and self._open_body().total == 0

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


def _nothing() -> None:
    """Do nothing: at the end of a request body, the response is what the exchange waits for."""

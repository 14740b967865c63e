"""The second half of an exchange: from the sandbox's first byte to the last one for the client."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from fastrouter.errors import UPSTREAM_CLOSED, UPSTREAM_PROTOCOL_ERROR, RouterError
from fastrouter.net.splice import Pipe
from fastrouter.net.tunnel import Tunnel
from fastrouter.policy import rewrite
from fastrouter.wire.fields import values
from fastrouter.wire.framing import Body, body_for
from fastrouter.wire.heads import MAX_HEAD, framing_for

if TYPE_CHECKING:
    from fastrouter.net.downstream import Downstream
    from fastrouter.net.owner import Owner
    from fastrouter.net.upstream import Upstream
    from fastrouter.policy.plan import RequestPlan, ResponsePlan
    from fastrouter.telemetry.outcome import Outcome


_EMPTY_LINE: Final = b"\r\n"


class ResponseSide(ABC):
    """What both halves of an exchange know, and what is done as the sandbox answers.

    Everything here runs in the sandbox's ``data_received``: no task is needed to pass a response on.
    """

    __slots__ = (
        "_client",
        "_done",
        "_relayed",
        "_response",
        "_response_body",
        "_tunnels",
        "body",
        "ends_by_close",
        "is_last",
        "keep",
        "outcome",
        "plan",
        "tunnel",
        "unattended",
        "upstream",
    )

    def __init__(self, client: Downstream, owner: Owner) -> None:
        self._client = client
        self._tunnels = owner.tunnels
        self.plan: RequestPlan
        self.outcome: Outcome
        self._response: ResponsePlan
        self._response_body: Body | None = None
        self._relayed = 0
        self._done = False
        self.body: Body | None = None
        """The request body, where it had not come whole with its head."""
        self.upstream: Upstream | None = None
        """The sandbox's connection, from the sending of the request to the end of the response."""
        self.tunnel: Tunnel | None = None
        """After 101: what passes both ways until the end of the connections."""
        self.unattended = False
        """True while no task waits for the end of the exchange: see ``Exchange.begin``."""
        self.keep = False
        """Whether the client's connection may carry another exchange, as far as is known."""
        self.ends_by_close = False
        """True while a response is sent whose body ends with the client's connection."""
        self.is_last = False
        """Set at shutdown: the response that has not begun yet says ``Connection: close``."""

    def _response_came(self) -> None:
        """Take response heads as they come, the informational ones first (RFC 9110 15.2).

        Called from the sandbox's ``data_received``, not from the task: a body goes on to the client while it
        is still in the processor's cache. Waking the task first cost 1 MB downloads a third of their speed.
        """
        upstream = self.upstream
        assert upstream is not None  # noqa: S101 - only an upstream calls this
        try:
            while (response := upstream.next_head()) is not None:
                if response.is_final:
                    self._begin_response(upstream, response)
                    return
                if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
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
        if self.plan.http11:
            self._client.write(response.kept_head + _EMPTY_LINE)

    def _switch(self, upstream: Upstream, response: ResponsePlan) -> None:
        """Make a tunnel of the two connections; what either side sent already goes first."""
        plan = self.plan
        head = response.head()
        protocols = [value.strip().lower() for value in values(head.fields, b"upgrade")]
        if not plan.upgrade or protocols != [plan.upgrade.lower()]:
            raise RouterError(UPSTREAM_PROTOCOL_ERROR, "101 for a protocol that was not asked for")
        if upstream.eof:
            raise RouterError(UPSTREAM_CLOSED, "switched before it was asked, and closed")
        upstream.listener = nothing
        self.outcome.status = response.status
        self.keep = False
        self.outcome.first_byte = time.monotonic()
        self._client.write(rewrite.switching_head(head) + self._head_end(response))
        frames = plan.upgrade.lower() == b"websocket"
        self.ends_by_close = not frames  # a WebSocket says itself where it ends
        limits = self._tunnels.limits
        self.tunnel = Tunnel(self._client, upstream, limits, self._response_ended, frames=frames)
        self.tunnel.open(time.monotonic())
        if self.is_last:
            self.tunnel.shut_down()  # the shutdown began while the sandbox thought about it

    def _begin_response(self, upstream: Upstream, response: ResponsePlan) -> None:
        """Send the head and what has come of the body; where more is to come, a pipe sends the rest."""
        plan, client = self.plan, self._client
        upstream.listener = nothing
        self._response = response
        self.outcome.status = response.status
        self.keep = self.keep and not self.is_last
        held = upstream.buffer
        whole = response.length == len(held) and (self.body is None or self.body.done)
        if whole and self.keep and plan.usual_reply:
            upstream.buffer = b""
            self.outcome.bytes_out = len(held)
            client.post(response.kept_head + self._head_end(response), held)
            self._done = True
            if self.unattended:
                self._complete()
            else:
                upstream.wake()
            return
        http11 = plan.http11
        framing = framing_for(response.status, response.framing, plan.method)
        self.ends_by_close = rewrite.closes(framing, http11=http11)
        self.keep = self.keep and not self.ends_by_close and not self._is_held_back()
        if self.keep and http11:
            head = response.kept_head
        else:
            head = rewrite.response_head(response.head(), http11=http11, close=not self.keep)
        head += self._head_end(response)
        self.outcome.first_byte = time.monotonic()
        body = body_for(framing, rewrite.trailers, reframe=http11)
        if body.done:
            client.write(head)
            self._response_ended()
        else:
            self._response_body = body
            Pipe(upstream, client, body, self._response_ended, upstream.malformed).attach(head)

    def _head_end(self, response: ResponsePlan) -> bytes:
        """Return what ends the head: the id of the request too, unless the sandbox tells one itself."""
        return _EMPTY_LINE if response.has_request_id else self.outcome.head_end

    def _response_ended(self) -> None:
        """End the exchange, or tell the task that waits; the rest of a request body waits for the task."""
        self._done = True
        if self.unattended and self._request_sent():
            self._complete()
        else:
            self._upstream().wake()

    @abstractmethod
    def _complete(self) -> None:
        """End an exchange that no task waits for."""

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
        expects = self.plan.expects_continue
        return expects and not self._request_sent() and self._open_body().total == 0


def nothing() -> None:
    """Do nothing: for callbacks where the exchange waits for something else."""

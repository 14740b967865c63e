"""Tunnels: what a pair of connections becomes after 101 Switching Protocols."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from fastrouter.errors import TOO_MANY_CONNECTIONS, RouterError
from fastrouter.net.splice import Pipe
from fastrouter.wire.framing import Body, UntilCloseBody
from fastrouter.wire.websocket import GOING_AWAY, MESSAGE_TOO_BIG, FrameMeter, close_frame

if TYPE_CHECKING:
    from fastrouter.errors import MalformedMessageError
    from fastrouter.net.connection import Connection

# After the close frames, how long both sides may take to end the frame under way, to read, and to close.
_CLOSING_SECONDS: Final = 2.0


class Limits(NamedTuple):
    """The limits of tunnels: seconds, bytes and a number; 0: none."""

    idle: float = 0.0
    lifetime: float = 0.0
    message: int = 0
    per_client: int = 0


class Tunnels:
    """How many tunnels each client has, those included whose upgrade is under way."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._clients: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Tunnels {self._clients.total()} of {len(self._clients)} clients>"

    @property
    def open(self) -> int:
        """How many there are."""
        return self._clients.total()

    def enter(self, client: str) -> None:
        """Count one more; raise ``RouterError`` (429) where the client has its share."""
        if 0 < self.limits.per_client <= self._clients[client]:
            raise RouterError(TOO_MANY_CONNECTIONS)
        self._clients[client] += 1

    def leave(self, client: str) -> None:
        """Count one less."""
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


class Direction(Pipe):
    """One direction of a tunnel. ``over`` when its sender has ended; ``stopped`` when the router ended it.

    A stopped direction still reads, and drops what it reads: unread bytes would make the kernel send RST, and
    the peer might never see the close frame.
    """

    __slots__ = ("_fed", "over", "stopped")

    def __init__(
        self,
        source: Connection,
        sink: Connection,
        body: Body,
        on_end: Callable[[], None],
        fed: Callable[[Direction], None],
    ) -> None:
        super().__init__(source, sink, body, on_end, _never)
        self._fed = fed
        self.over = False
        self.stopped = False

    def feed(self, data: bytes) -> None:
        """Pass bytes on, then let the tunnel see what they were."""
        if self.stopped or self.source.pipe is not self:
            return
        # Less than a body's pipe does: raw bytes have no end of their own, no backlog, and no faults.
        out = self.body.feed(data)
        if out:
            self.sink.post(out)
        self._fed(self)

    def stop(self) -> None:
        """Pass nothing on any more, not even the end; drop what comes."""
        self.stopped = True
        self.source.resume_reading()
        self.sink.write_eof()


class Tunnel:
    """Raw bytes between two connections, both ways, until both senders have ended or a limit is reached.

    No task and no timer: the sweep calls ``tick`` through the client's connection. ``ended`` is called once
    at the end; the caller closes both connections.
    """

    def __init__(
        self,
        client: Connection,
        upstream: Connection,
        limits: Limits,
        ended: Callable[[], None],
        *,
        frames: bool,
    ) -> None:
        """Tunnel between the two; ``frames`` tells that what passes are WebSocket frames."""
        self._limits = limits
        self._ended = ended
        self._frames = frames
        self._idle_at = math.inf
        self._ends_at = math.inf
        self._closing_until = math.inf
        self._closing: tuple[int, str] | None = None
        up: Body = FrameMeter() if frames else UntilCloseBody()
        down: Body = FrameMeter(limits.message) if frames else UntilCloseBody()
        self.up = Direction(client, upstream, up, lambda: self._over(self.up), self._fed)
        self.down = Direction(upstream, client, down, lambda: self._over(self.down), self._fed)

    def __repr__(self) -> str:
        return f"<Tunnel up={self.up!r} down={self.down!r} closing={self._closing}>"

    def open(self, now: float) -> None:
        """Begin, with the bytes that both sides have sent already."""
        if self._limits.idle:
            self._idle_at = now + self._limits.idle
        if self._limits.lifetime:
            self._ends_at = now + self._limits.lifetime
        for direction in (self.down, self.up):
            direction.source.half_open = True
            direction.attach()

    def tick(self, now: float) -> None:
        """Compare with the limits."""
        moved = self.up.source.has_moved() | self.down.source.has_moved()
        if self._closing is not None:
            self._closing_until = min(self._closing_until, now + _CLOSING_SECONDS)
            if now >= self._closing_until:
                self._ended()
        elif now >= self._ends_at:
            self.close(GOING_AWAY, "max lifetime exceeded")
        elif moved and self._limits.idle:
            self._idle_at = now + self._limits.idle
        elif now >= self._idle_at:
            self.close(GOING_AWAY, "idle timeout exceeded")

    def close(self, code: int, reason: str) -> None:
        """End both directions with a close frame at their next frame boundary; without frames, at once."""
        if self._closing is None:
            self._closing = (code, reason)
            for direction in (self.down, self.up):
                self._close(direction)
            if not self._frames:
                self._ended()

    @property
    def has_last_word(self) -> bool:
        """True once all that the sandbox had to say has come: the loss of its connection is no fault then."""
        meter = self.down.body
        said = self.down.over or self._closing is not None
        return said or (isinstance(meter, FrameMeter) and meter.closed and meter.at_boundary)

    def shut_down(self) -> None:
        """End it because the router ends."""
        self.close(GOING_AWAY, "the router is shutting down")

    def _fed(self, direction: Direction) -> None:
        """See whether what just passed made a message too long, or ended the frame that a close waits for."""
        if self._closing is not None:
            self._close(direction)
        elif isinstance(direction.body, FrameMeter) and direction.body.too_big:
            self.close(MESSAGE_TOO_BIG, "message too big")

    def _close(self, direction: Direction) -> None:
        """Write the close frame where one may stand, and stop."""
        meter = direction.body
        if not isinstance(meter, FrameMeter) or self._closing is None or direction.over or direction.stopped:
            return
        if meter.at_boundary:
            if not meter.closed:
                mask = os.urandom(4) if direction is self.up else b""
                direction.sink.write(close_frame(*self._closing, mask))
            direction.stop()

    def _over(self, direction: Direction) -> None:
        """Pass the end of one direction on; the tunnel ends with the second."""
        direction.over = True
        if not direction.stopped:
            direction.sink.write_eof()
        if self.up.over and self.down.over:
            self._ended()


def _never(error: MalformedMessageError) -> None:
    """Fail loudly: raw bytes are never malformed."""
    raise error

"""Connections to sandboxes, kept for the next request: O(1), whatever the number of sandboxes."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import Final

from fastrouter.net.dialer import Dialer
from fastrouter.net.upstream import State, Upstream
from fastrouter.policy.target import PoolKey, Target

# A connection that rested longer than this is asked whether it is still open before it is used: a FIN may
# be waiting behind the event that is handled now. At full load connections rest for microseconds, and the
# system call is not made.
_REST_SECONDS: Final = 0.1


class Lease:
    """The right to use one connection for one exchange; ends once, by ``release`` or ``discard``."""

    __slots__ = ("_pool", "connection", "reused")

    def __init__(self, pool: Pool, connection: Upstream, *, reused: bool) -> None:
        self._pool: Pool | None = pool
        self.connection = connection
        self.reused = reused

    def release(self) -> None:
        """Give the connection back for reuse; it must be at the end of an exchange."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.take_back(self.connection)

    def discard(self) -> None:
        """Close the connection at once; does nothing after ``release`` or ``discard``."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.throw_away(self.connection)


@dataclass(slots=True)
class PoolCounters:
    """What became of leases: ``acquired`` = ``released`` + ``discarded`` + those in use."""

    acquired: int = 0
    reused: int = 0
    released: int = 0
    discarded: int = 0


class Pool:
    """Idle connections by pool key, the most recently used first.

    An idle connection leaves by its own ``eof_received`` or ``connection_lost``, or by ``expire``; nothing
    is polled and nothing scanned. All idle connections share one time to live, so the order of their return
    is the order of their expiry.

    ``max_idle`` is enforced by ``expire``, not on return: answers come in batches, and 64 clients of one
    sandbox would close and dial 44 connections in every turn of the event loop.
    """

    def __init__(self, *, max_idle: int, expiry: float) -> None:
        """Keep ``max_idle`` connections per key (0: none) for ``expiry`` seconds."""
        self._max_idle = max_idle
        self._expiry = expiry
        self._idle: dict[PoolKey, dict[Upstream, None]] = {}
        self._by_age: dict[Upstream, None] = {}
        self._crowded: set[PoolKey] = set()
        self.counters = PoolCounters()
        self.dialer: Dialer

    def __repr__(self) -> str:
        return f"<Pool idle={len(self._by_age)} keys={len(self._idle)} {self.counters}>"

    def statistics(self) -> dict[str, int]:
        """Return the numbers of idle connections, keys and leases."""
        counters = self.counters
        return {
            "upstream_idle": len(self._by_age),
            "upstream_active": counters.acquired - counters.released - counters.discarded,
            "pool_keys": len(self._idle),
            "acquired": counters.acquired,
            "reused": counters.reused,
            "released": counters.released,
            "discarded": counters.discarded,
        }

    async def acquire(self, target: Target, timeout: float) -> Lease:
        """Return a lease of an idle connection or a fresh one; raise ``RouterError`` of a failed dial."""
        return self.reuse(target) or await self.dial(target, timeout)

    def reuse(self, target: Target) -> Lease | None:
        """Return a lease of the connection to ``target`` that was used last, if one is idle."""
        while True:
            idle = self._idle.get(target.key)
            if idle is None:
                return None
            # popitem, not next(reversed(...)): that would walk the deleted entries at the dict's end.
            connection, _ = idle.popitem()
            if not idle:
                del self._idle[target.key]
            del self._by_age[connection]
            if time.monotonic() - connection.idle_since > _REST_SECONDS and _readable(connection):
                connection.abort()
                continue
            return self._lease(connection, reused=True)

    async def dial(self, target: Target, timeout: float) -> Lease:
        """Return a lease of a fresh connection; one attempt takes at most ``timeout`` seconds."""
        return self._lease(await self.dialer.dial(target, timeout), reused=False)

    def _lease(self, connection: Upstream, *, reused: bool) -> Lease:
        self.counters.acquired += 1
        self.counters.reused += reused
        connection.begin()
        return Lease(self, connection, reused=reused)

    def take_back(self, connection: Upstream) -> None:
        """Keep the connection of an ended lease, unless it is spent."""
        if not (self._max_idle and connection.reusable):
            self.throw_away(connection)
            return
        self.counters.released += 1
        key = connection.target.key
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = {}
        elif len(idle) >= self._max_idle:
            self._crowded.add(key)
        idle[connection] = None
        self._by_age[connection] = None
        connection.idle_since = time.monotonic()
        connection.state = State.IDLE
        if connection.reading_paused:
            connection.resume_reading()

    def throw_away(self, connection: Upstream) -> None:
        """Close the connection of an ended lease."""
        self.counters.discarded += 1
        connection.abort()

    def forget(self, connection: Upstream) -> None:
        """Take a connection out of the idle ones, if it is there."""
        if connection not in self._by_age:
            return
        del self._by_age[connection]
        key = connection.target.key
        idle = self._idle[key]
        del idle[connection]
        if not idle:
            del self._idle[key]

    def has_expired(self, connection: Upstream) -> bool:
        """Tell whether an idle connection has outlived ``expiry``."""
        return connection.state is State.IDLE and time.monotonic() - connection.idle_since >= self._expiry

    def expire(self) -> None:
        """Close what idled too long or is over ``max_idle``; costs only what it closes."""
        for key in self._crowded:
            idle = self._idle.get(key, {})
            for connection in list(idle)[: max(0, len(idle) - self._max_idle)]:
                self._drop(connection)
        self._crowded.clear()
        while self._by_age:
            oldest = next(iter(self._by_age))
            if not self.has_expired(oldest):
                return
            self._drop(oldest)

    def close(self) -> None:
        """Close all idle connections."""
        for connection in list(self._by_age):
            self._drop(connection)

    def _drop(self, connection: Upstream) -> None:
        self.forget(connection)
        connection.transport.close()


def _readable(connection: Upstream) -> bool:
    """Tell whether the socket of an idle connection has something to read: it can only be its end."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None:
        return False  # a backend without sockets: its own end-of-file has to tell
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))

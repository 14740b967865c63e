"""Connections to sandboxes, kept for the next request: O(1), whatever the number of sandboxes."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fastrouter.net.connection import readable
from fastrouter.net.dialer import Attempts, Dialer
from fastrouter.net.upstream import State, Upstream
from fastrouter.policy.target import PoolKey, Target

# A connection that rested longer than this is asked whether it is still open before it is used: a FIN may
# be waiting behind the event that is handled now, and servers that end idle connections wait for a second at
# least. At full load, 10,000 sandboxes' connections rest for a quarter, and the system call is not made.
_REST_SECONDS: Final = 1.0

_CLOSED_AT_ONCE: Final = 64

# How exactly the end of an idle connection's time is kept.
_BUCKET_SECONDS: Final = 0.25


class Lease:
    """The right to use one connection for one exchange; ends once, by ``release`` or ``discard``."""

    __slots__ = ("_pool", "connection", "reused")

    def __init__(self, pool: Pool, connection: Upstream) -> None:
        self._pool: Pool | None = pool
        self.connection = connection
        self.reused = False
        """Whether the connection comes from the pool: its sandbox may have closed it by now."""

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

    @property
    def in_use(self) -> int:
        """The leases that have not ended."""
        return self.acquired - self.released - self.discarded


class Pool:
    """Idle connections by pool key, each key's a stack: the most recently used first.

    An idle connection leaves by its own ``eof_received`` or ``connection_lost``, or by ``expire``; nothing
    is polled and nothing scanned. The stack is linked through the connections (``Upstream.below``): with
    10,000 sandboxes, what costs is the number of objects that a request touches.

    ``max_idle`` is enforced by ``expire``, not on return: answers come in batches, and 64 clients of one
    sandbox would close and dial 44 connections in every turn of the event loop.
    """

    def __init__(self, *, max_idle: int, expiry: float) -> None:
        """Keep ``max_idle`` connections per key (0: none) for ``expiry`` seconds."""
        self._max_idle = max_idle
        self._idle: dict[PoolKey, Upstream] = {}
        self._resting = 0
        self._crowded: set[PoolKey] = set()
        self._spent: list[Upstream] = []
        self._wheel = Wheel(expiry)
        self._sure_seconds = min(_REST_SECONDS, expiry)
        self.counters = PoolCounters()
        self.dialer: Dialer

    def __repr__(self) -> str:
        return f"<Pool idle={self._resting} keys={len(self._idle)} {self.counters}>"

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return self._resting

    def statistics(self) -> dict[str, int]:
        """Return the numbers of idle connections, keys and leases."""
        counters = self.counters
        return {
            "upstream_idle": self._resting,
            "upstream_active": counters.in_use,
            "pool_keys": len(self._idle),
            "acquired": counters.acquired,
            "reused": counters.reused,
            "released": counters.released,
            "discarded": counters.discarded,
        }

    async def acquire(self, target: Target, timeout: float) -> Lease:
        """Return a lease of an idle connection or a fresh one; raise ``RouterError`` of a failed dial."""
        return self.reuse(target) or await self.dial(target, timeout)

    def reuse(self, target: Target, now: float = 0.0) -> Lease | None:
        """Return a lease of the connection to ``target`` that was used last, if one is idle.

        ``now`` spares a look at the clock (monotonic seconds) to who has just looked.
        """
        key = target.key
        while (connection := self._idle.get(key)) is not None:
            self._take_off(key, connection)
            rested = (now or time.monotonic()) - connection.idle_since
            unsure = rested >= self._sure_seconds
            if connection.transport.is_closing() or (unsure and self._is_spent(connection, rested)):
                self._wheel.remove(connection)
                connection.abort()
                continue
            self.counters.reused += 1
            lease = self._lease(connection)
            lease.reused = True
            return lease
        return None

    def _is_spent(self, connection: Upstream, rested: float) -> bool:
        """Tell whether a connection that has rested so long has expired, or ended and nobody was told yet."""
        if rested >= self._wheel.expiry:
            return True
        sock = connection.transport.get_extra_info("socket")
        # A backend without sockets: its own end-of-file has to tell. What an idle one can say is its end.
        return sock is not None and readable([sock])

    def _take_off(self, key: PoolKey, connection: Upstream) -> None:
        """Take a connection off the top of its stack."""
        below = connection.below
        if below is None:
            del self._idle[key]
        else:
            self._idle[key] = below
            connection.below = below.above = None
        connection.pooled = False
        self._resting -= 1

    async def dial(self, target: Target, timeout: float, attempts: Attempts | None = None) -> Lease:
        """Return a lease of a fresh connection; one attempt takes at most ``timeout`` seconds."""
        return self._lease(await self.dialer.dial(target, timeout, attempts))

    def _lease(self, connection: Upstream) -> Lease:
        self.counters.acquired += 1
        connection.begin()
        return Lease(self, connection)

    def take_back(self, connection: Upstream) -> None:
        """Keep the connection of an ended lease, unless it is spent."""
        if not (self._max_idle and connection.reusable):
            self.throw_away(connection)
            return
        self.counters.released += 1
        key = connection.target.key
        below = connection.below = self._idle.get(key)
        if below is None:
            connection.depth = 1
        else:
            below.above = connection
            connection.depth = below.depth + 1
        if connection.depth > self._max_idle:
            self._crowded.add(key)
        self._idle[key] = connection
        self._resting += 1
        connection.pooled = True
        connection.idle_since = time.monotonic()
        connection.state = State.IDLE
        if connection.bucket is None:
            self._wheel.add(connection)
        if connection.reading_paused:
            connection.resume_reading()

    def throw_away(self, connection: Upstream) -> None:
        """Close the connection of an ended lease."""
        self.counters.discarded += 1
        self._wheel.remove(connection)
        connection.abort()

    def forget(self, connection: Upstream) -> None:
        """Take a connection out of the idle ones, if it is there."""
        self._wheel.remove(connection)
        if not connection.pooled:
            return
        above, below = connection.above, connection.below
        if above is None:
            self._take_off(connection.target.key, connection)
            return
        # Those above keep their depth, which is one too many now: it only says when to look for a crowd.
        above.below = below
        if below is not None:
            below.above = above
        connection.above = connection.below = None
        connection.pooled = False
        self._resting -= 1

    def has_expired(self, connection: Upstream) -> bool:
        """Tell whether an idle connection has outlived ``expiry``."""
        return connection.pooled and self._wheel.due(connection) <= time.monotonic()

    def expire(self) -> None:
        """Close what idled too long or is over ``max_idle``; costs little more than what it closes."""
        for key in self._crowded:
            self._spent += list(self._stack(key))[self._max_idle :]
        self._crowded.clear()
        self._spent += self._wheel.turn(time.monotonic())
        self._close_spent()

    def _close_spent(self) -> None:
        """Close some of what is spent, and the rest in later turns of the event loop.

        When the load on 10,000 sandboxes ends, their connections expire together: closing all at once kept
        everybody else waiting for 8.5 ms.
        """
        for connection in self._spent[:_CLOSED_AT_ONCE]:
            if connection.pooled:
                self._drop(connection)
        del self._spent[:_CLOSED_AT_ONCE]
        if self._spent:
            asyncio.get_running_loop().call_soon(self._close_spent)

    @property
    def open(self) -> int:
        """How many connections to sandboxes are open, idle or leased."""
        return self._resting + self.counters.in_use

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections for want of file descriptors; return how many were."""
        shed = 0
        while self._idle and shed < count:
            self._drop(next(iter(self._idle.values())))
            shed += 1
        return shed

    def close(self) -> None:
        """Close all idle connections."""
        for key in list(self._idle):
            for connection in list(self._stack(key)):
                self._drop(connection)

    def _stack(self, key: PoolKey) -> Iterator[Upstream]:
        connection = self._idle.get(key)
        while connection is not None:
            yield connection
            connection = connection.below

    def _drop(self, connection: Upstream) -> None:
        self.forget(connection)
        # At once: what its sandbox never read of a request would keep a plain close waiting for ever.
        connection.abort()


class Wheel:
    """When to look at connections again: lists of them, each for a quarter of a second.

    A connection that is used again stays where it is: that costs nothing then, and it is looked at once per
    ``expiry`` at most, and put where it belongs by that time.
    """

    def __init__(self, expiry: float) -> None:
        self.expiry = expiry
        """Seconds that a connection may idle."""
        self._buckets: dict[int, dict[Upstream, None]] = {}
        self._order: list[int] = []

    def due(self, connection: Upstream) -> float:
        """Return when an idle connection has idled too long; monotonic seconds."""
        return connection.idle_since + self.expiry

    def add(self, connection: Upstream) -> None:
        """Look at an idle connection when it may have expired."""
        self._put(connection, self.due(connection))

    def _put(self, connection: Upstream, moment: float) -> None:
        number = int(moment / _BUCKET_SECONDS) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._order, number)
        bucket[connection] = None
        connection.bucket = bucket

    def remove(self, connection: Upstream) -> None:
        """Look at it no more."""
        if connection.bucket is not None:
            connection.bucket.pop(connection, None)
            connection.bucket = None

    def turn(self, now: float) -> list[Upstream]:
        """Return the connections that have idled too long by ``now``."""
        expired = []
        while self._order and self._order[0] * _BUCKET_SECONDS <= now:
            for connection in self._buckets.pop(heapq.heappop(self._order)):
                moment = self.due(connection) if connection.pooled else now + self.expiry
                if moment <= now:
                    expired.append(connection)
                else:
                    self._put(connection, moment)
        return expired

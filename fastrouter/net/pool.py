"""Connections to sandboxes, kept for the next request: O(1), whatever the number of sandboxes."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
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

# Connections that come back within so long share one number for the moment: see docs/decisions/0016.
_SAME_MOMENT: Final = 0.01


class Lease:
    """The right to use one connection for one exchange; ends once, by ``release`` or ``discard``."""

    __slots__ = ("_pool", "connection", "reused")

    def __init__(self, pool: Pool, connection: Upstream) -> None:
        self._pool: Pool | None = pool
        self.connection = connection
        self.reused = False
        """Whether the connection comes from the pool: its sandbox may have closed it by now."""

    def release(self, now: float = 0.0) -> None:
        """Give the connection back for reuse; it must be at the end of an exchange.

        ``now`` spares a look at the clock (monotonic seconds) to who has just looked.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.take_back(self.connection, now or time.monotonic())

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
    """Idle connections, a stack of them for each target: the most recently used first.

    An idle connection leaves by its own ``eof_received`` or ``connection_lost``, or by ``expire``; nothing
    is polled and nothing scanned. The target holds the top of its stack, which is linked through the
    connections (``Upstream.below``): nothing is looked up by key. So all requests to one port of one sandbox
    must come with one ``Target``, as those of one ``policy.target.Targets`` do.

    ``max_idle`` is enforced by ``expire``, not on return: answers come in batches, and 64 clients of one
    sandbox would close and dial 44 connections in every turn of the event loop.
    """

    def __init__(self, *, max_idle: int, expiry: float) -> None:
        """Keep ``max_idle`` connections per key (0: none) for ``expiry`` seconds."""
        self._max_idle = max_idle
        self._stacks = 0
        self._resting = 0
        self._moment = 0.0
        self._crowded: dict[PoolKey, Target] = {}
        self._spent: list[Upstream] = []
        self._wheel = Wheel(expiry)
        self._sure_seconds = min(_REST_SECONDS, expiry)
        self.counters = PoolCounters()
        self.dialer: Dialer

    def __repr__(self) -> str:
        return f"<Pool idle={self._resting} keys={self._stacks} {self.counters}>"

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
            "pool_keys": self._stacks,
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
        while (connection := target.top) is not None:
            self._take_off(connection)
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

    def _take_off(self, connection: Upstream) -> None:
        """Take a connection off the top of its stack."""
        below = connection.target.top = connection.below
        if below is None:
            self._stacks -= 1
        else:
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

    def take_back(self, connection: Upstream, now: float) -> None:
        """Keep the connection of a lease that ended ``now``, unless it is spent."""
        if not (self._max_idle and connection.reusable):
            self.throw_away(connection)
            return
        self.counters.released += 1
        target = connection.target
        below = connection.below = target.top
        if below is None:
            connection.depth = 1
            self._stacks += 1
        else:
            below.above = connection
            connection.depth = below.depth + 1
        if connection.depth > self._max_idle:
            self._crowded[target.key] = target
        target.top = connection
        self._resting += 1
        connection.pooled = True
        if now - self._moment > _SAME_MOMENT:
            self._moment = now
        connection.idle_since = self._moment
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
            self._take_off(connection)
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
        for target in self._crowded.values():
            self._spent += list(stack_of(target))[self._max_idle :]
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
        count = min(count, self._resting)  # of those in use, the wheel may hold thousands
        idle = (each for each in chain(self._spent, self._wheel) if each.pooled)
        for connection in islice(idle, count):
            self._drop(connection)
        return count

    def close(self) -> None:
        """Close all idle connections."""
        self.shed(self._resting)

    def _drop(self, connection: Upstream) -> None:
        self.forget(connection)
        # At once: what its sandbox never read of a request would keep a plain close waiting for ever.
        connection.abort()


def stack_of(target: Target) -> Iterator[Upstream]:
    """Yield the idle connections to a target, the one that was used last first."""
    connection = target.top
    while connection is not None:
        yield connection
        connection = connection.below


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

    def __iter__(self) -> Iterator[Upstream]:
        """Yield the connections in the order in which they are looked at; they may be removed meanwhile."""
        for number in sorted(self._buckets):
            yield from list(self._buckets[number])

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
                    connection.bucket = None
                    expired.append(connection)
                else:
                    self._put(connection, moment)
        return expired

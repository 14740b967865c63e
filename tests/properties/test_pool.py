"""The pool under every order of events: leases add up, and no connection is leased twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TypeVar, cast
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastrouter.net.dialer import Dialer
from fastrouter.net.outbox import Outbox
from fastrouter.net.pool import Lease, Pool, stack_of
from fastrouter.net.upstream import State, Upstream
from fastrouter.policy.plan import plan_response
from fastrouter.policy.target import PoolKey, Target
from fastrouter.wire.head_cache import HeadCache

T = TypeVar("T")

_SANDBOXES = ("a", "b")
_MAX_IDLE = 2
_EXPIRY = 4.0


@dataclass
class Wire(asyncio.Transport):
    """A transport without a network: like a real one, it tells of its end a turn later."""

    closing: bool = False
    told: bool = False
    extra: dict[str, object] = field(default_factory=dict)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.extra.get(name, default)


def run(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("it waits")


class PoolMachine(RuleBasedStateMachine):
    """Drives one pool, and keeps its own account."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.patch = mock.patch("fastrouter.net.pool.time", SimpleNamespace(monotonic=self.monotonic))
        self.patch.start()
        self.pool = Pool(max_idle=_MAX_IDLE, expiry=_EXPIRY)
        self.pool.dialer = cast(Dialer, self)
        self.targets = [Target(PoolKey(name, "default", 1), f"{name}.test") for name in _SANDBOXES]
        self.connections: list[Upstream] = []
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        self.patch.stop()

    async def dial(self, target: Target, _timeout: float, _attempts: object = None) -> Upstream:
        loop = cast(asyncio.AbstractEventLoop, None)
        connection = Upstream(loop, Outbox(), target, HeadCache(plan_response), self.pool)
        connection.connection_made(Wire())
        self.connections.append(connection)
        return connection

    def monotonic(self) -> float:
        return self.now

    def wire(self, connection: Upstream) -> Wire:
        return cast(Wire, connection.transport)

    @rule(number=st.integers(0, len(_SANDBOXES) - 1))
    def acquire(self, number: int) -> None:
        where = self.targets[number]
        fresh = [c for c in self.connections if c.pooled and self.now - c.idle_since < _EXPIRY]
        warm = any(c.state is State.IDLE and c.target == where for c in fresh)
        lease = run(self.pool.acquire(where, 1.0))
        assert lease.reused == warm
        assert lease.connection.target == where
        assert lease.connection.state is State.ACTIVE
        assert not self.wire(lease.connection).closing
        assert lease.connection not in [other.connection for other in self.leases]
        self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), excess=st.sampled_from([b"", b"", b"x"]), unsent=st.booleans())
    def release(self, data: st.DataObject, excess: bytes, unsent: bool) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        connection = lease.connection
        connection.buffer += excess
        if unsent:
            connection.pause_writing()  # the sandbox has answered before it read the request
        clean = connection.reusable and not unsent
        lease.release()
        lease.release()
        lease.discard()
        assert (connection.state is State.IDLE) == clean
        assert clean or self.wire(connection).closing

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.discard()
        lease.discard()
        lease.release()
        assert self.wire(lease.connection).closing

    @precondition(lambda self: any(not self.wire(c).closing for c in self.connections))
    @rule(data=st.data(), how=st.sampled_from(["speaks", "ends", "resets"]))
    def sandbox(self, data: st.DataObject, how: str) -> None:
        """Let a sandbox do something on a connection that is open."""
        connection = data.draw(st.sampled_from([c for c in self.connections if not self.wire(c).closing]))
        wire = self.wire(connection)
        if how == "speaks":
            connection.data_received(b"HTTP/1.1 200 OK\r\n")
        elif how == "ends":
            connection.eof_received()
            wire.closing = True
        else:
            wire.closing = wire.told = True
            connection.connection_lost(ConnectionResetError())

    @rule()
    def turn(self) -> None:
        """Tell closed connections that they are."""
        for connection in self.connections:
            wire = self.wire(connection)
            if wire.closing and not wire.told:
                wire.told = True
                connection.connection_lost(None)

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, _EXPIRY]))
    def expire(self, seconds: float) -> None:
        self.now += seconds
        self.pool.expire()
        assert all(len(list(stack_of(target))) <= _MAX_IDLE for target in self.targets)
        assert all(self.now - c.idle_since < _EXPIRY + 0.25 for c in self.connections if c.pooled)

    @rule(count=st.integers(0, 3))
    def shed(self, count: int) -> None:
        """Want descriptors: as many as asked for are closed, of those that idle."""
        before = [c for c in self.connections if c.pooled]
        assert self.pool.shed(count) == min(count, len(before))
        assert sum(c.pooled for c in before) == max(0, len(before) - count)
        assert all(c.pooled != self.wire(c).closing for c in before)

    @invariant()
    def leases_add_up(self) -> None:
        counters = self.pool.counters
        assert counters.acquired == counters.released + counters.discarded + len(self.leases)
        assert self.pool.statistics()["upstream_active"] == len(self.leases)

    @invariant()
    def idle_connections_are_open_and_in_one_stack_and_on_the_wheel(self) -> None:
        stacks = {target.key: list(stack_of(target)) for target in self.targets if target.top is not None}
        assert len(stacks) == self.pool.statistics()["pool_keys"]
        listed = [connection for stack in stacks.values() for connection in stack]
        assert len(listed) == len(set(listed)) == self.pool.statistics()["upstream_idle"]
        assert set(listed) == {c for c in self.connections if c.pooled}
        assert all(c.target.key == key for key, stack in stacks.items() for c in stack)
        for stack in stacks.values():
            assert all(c.depth >= len(stack) - place for place, c in enumerate(stack))
        assert all(c.below is None or c.below.above is c for c in listed)
        assert all(stack[0].above is None for stack in stacks.values())
        # Each will be looked at when it may have expired; nothing that is closed is held on to.
        watched = [c for bucket in self.pool._wheel._buckets.values() for c in bucket]
        assert len(watched) == len(set(watched))
        assert set(listed) <= set(watched)
        leased = {lease.connection for lease in self.leases}
        assert not any(self.wire(c).closing for c in watched if c not in leased)
        assert all(c.state is State.IDLE for c in listed)
        assert not any(self.wire(c).closing for c in listed)
        assert not leased & set(listed)

    @invariant()
    def every_open_connection_is_leased_or_idle(self) -> None:
        held = {lease.connection for lease in self.leases} | {c for c in self.connections if c.pooled}
        assert all(self.wire(c).closing or c in held for c in self.connections)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(stateful_step_count=40)

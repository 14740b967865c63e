"""Connections kept for the next request: who gets which, what leaves, and that nobody pays for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.errors import UPSTREAM_CLOSED, RouterError
from fastrouter.net import pool as pool_module
from fastrouter.net.outbox import Outbox
from fastrouter.net.pool import Lease, Pool
from fastrouter.net.upstream import State, Upstream
from fastrouter.policy.plan import plan_response
from fastrouter.policy.target import PoolKey, Target, Targets
from fastrouter.wire.head_cache import HeadCache
from tests.support import Stage, Visit, always, eventually, ok, request, stage


class FakeTransport(asyncio.Transport):
    """A transport that counts how often it is touched."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = 0
        self.closed = False

    def is_closing(self) -> bool:
        self.touched += 1
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        self.touched += 1
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.touched += 1
        self.closed = True

    abort = close


def target(name: str = "box", port: int = 1) -> Target:
    """Return what plans for one sandbox share in a router: see `a_router_of_its_own`."""
    return _of_the_test[0].one(Target(PoolKey(name, "default", port), f"{name}.default.svc.cluster.local"))


_of_the_test: list[Targets] = []


@pytest.fixture(autouse=True)
def a_router_of_its_own() -> Iterator[None]:
    """Let no test find the connections of another."""
    _of_the_test.append(Targets())
    yield
    _of_the_test.clear()


class FakeDialer:
    """Gives connections over fake transports, at once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.attempts = 0

    async def dial(
        self,
        target: Target,
        timeout: float,  # noqa: ASYNC109 - as Dialer's
        attempts: object = None,
    ) -> Upstream:
        self.attempts += 1
        loop = asyncio.get_running_loop()
        connection = Upstream(loop, Outbox(), target, HeadCache(plan_response), self._pool)
        connection.connection_made(FakeTransport())
        return connection


def fake_pool(*, max_idle: int = 20, expiry: float = 4.0) -> Pool:
    pool = Pool(max_idle=max_idle, expiry=expiry)
    pool.dialer = cast(Any, FakeDialer(pool))
    return pool


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pool_module, "time", clock)
    return clock


async def leases(pool: Pool, count: int, to: Target | None = None) -> list[Lease]:
    return [await pool.acquire(to or target(), 1.0) for _ in range(count)]


async def expired_pool(clock: Clock) -> Pool:
    """Return a pool that has just noticed that its 200 connections, each to another sandbox, have expired."""
    pool = fake_pool(expiry=4.0)
    for number in range(200):
        (lease,) = await leases(pool, 1, target(f"box-{number}"))
        lease.release()
    clock.now += 4.25
    pool.expire()
    return pool


class TestOrder:
    async def test_the_connection_used_last_is_used_next(self) -> None:
        pool = fake_pool()
        one, two, three = await leases(pool, 3)
        for lease in (two, three, one):
            lease.release()
        order = [lease.connection for lease in await leases(pool, 3)]
        assert order == [one.connection, three.connection, two.connection]

    @pytest.mark.parametrize(
        "other",
        [
            PoolKey("other", "default", 1),
            PoolKey("box", "other", 1),
            PoolKey("box", "default", 2),
        ],
    )
    async def test_no_other_sandbox_gets_it(self, other: PoolKey) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        lease.release()
        assert pool.reuse(_of_the_test[0].one(Target(other, target().host))) is None
        again = pool.reuse(target())
        assert again is not None
        assert again.connection is lease.connection
        assert again.reused

    async def test_a_lease_ends_once(self) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        lease.release()
        lease.discard()
        lease.release()
        assert pool.statistics() | {"acquired": 1, "released": 1, "discarded": 0, "upstream_idle": 1} == (
            pool.statistics()
        )


class TestLimits:
    async def test_more_than_max_idle_are_closed_by_the_sweep_the_oldest_first(self) -> None:
        pool = fake_pool(max_idle=2)
        taken = await leases(pool, 5)
        for lease in taken:
            lease.release()
        pool.expire()
        assert pool.statistics()["upstream_idle"] == 2
        closed = [lease.connection.transport.is_closing() for lease in taken]
        assert closed == [True, True, True, False, False]

    async def test_the_limit_is_per_sandbox(self) -> None:
        pool = fake_pool(max_idle=2)
        for name in ("a", "b", "c"):
            for lease in await leases(pool, 2, target(name)):
                lease.release()
        pool.expire()
        assert (pool.statistics()["upstream_idle"], pool.statistics()["pool_keys"]) == (6, 3)

    async def test_zero_keeps_none(self) -> None:
        pool = fake_pool(max_idle=0)
        (lease,) = await leases(pool, 1)
        lease.release()
        assert pool.statistics() | {"upstream_idle": 0, "discarded": 1, "released": 0} == pool.statistics()
        assert lease.connection.transport.is_closing()

    async def test_an_idle_connection_expires(self, clock: Clock) -> None:
        pool = fake_pool(expiry=4.0)
        old, young = await leases(pool, 2)
        old.release()
        clock.now += 3.0
        young.release()
        clock.now += 0.9
        pool.expire()
        assert pool.statistics()["upstream_idle"] == 2
        clock.now += 0.1
        assert old.connection.has_expired()
        clock.now += 0.25  # the sweep looks four times a second
        pool.expire()
        assert old.connection.transport.is_closing()
        assert not young.connection.transport.is_closing()

    async def test_one_that_expired_is_not_used_though_no_sweep_has_closed_it(self, clock: Clock) -> None:
        pool = fake_pool(expiry=4.0)
        (lease,) = await leases(pool, 1)
        lease.release()
        clock.now += 4.0
        assert pool.reuse(target()) is None
        assert lease.connection.transport.is_closing()
        assert pool.statistics()["upstream_idle"] == 0

    async def test_one_that_is_closing_is_not_used(self) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        lease.release()
        lease.connection.transport.close()  # and nobody was told yet
        assert pool.reuse(target()) is None
        assert pool.statistics()["upstream_idle"] == 0

    async def test_an_expiry_of_less_than_a_second_counts(self, clock: Clock) -> None:
        pool = fake_pool(expiry=0.3)
        (lease,) = await leases(pool, 1)
        lease.release()
        clock.now += 0.4
        assert pool.reuse(target()) is None

    async def test_many_that_expire_together_are_closed_a_few_at_a_time(self, clock: Clock) -> None:
        pool = await expired_pool(clock)
        left = [pool.statistics()["upstream_idle"]]
        while left[-1]:
            await asyncio.sleep(0)
            left.append(pool.statistics()["upstream_idle"])
        assert left == [136, 72, 8, 0]

    async def test_those_that_wait_to_be_closed_are_closed_with_the_pool(self, clock: Clock) -> None:
        pool = await expired_pool(clock)
        assert pool.shed(6) == 6
        assert pool.statistics()["upstream_idle"] == 130
        pool.close()
        assert (pool.statistics()["upstream_idle"], pool.statistics()["pool_keys"]) == (0, 0)

    async def test_one_that_is_used_while_it_waits_to_be_closed_is_kept_in_sight(self, clock: Clock) -> None:
        pool = await expired_pool(clock)
        lease = pool.reuse(target("box-199"), clock.now - 0.4)  # by an older look at the clock it is in time
        assert lease is not None
        for _ in range(4):  # as many turns as it takes to close the others
            await asyncio.sleep(0)
        assert pool.statistics()["upstream_idle"] == 0
        lease.release()
        clock.now += 4.25
        pool.expire()
        assert pool.statistics()["upstream_idle"] == 0

    async def test_connections_that_come_back_together_share_a_moment(self, clock: Clock) -> None:
        pool = fake_pool()
        since = []
        for lease in await leases(pool, 4):
            lease.release()
            since.append(lease.connection.idle_since)
            clock.now += 0.004
        assert since == pytest.approx([1000.0, 1000.0, 1000.0, 1000.012])

    async def test_use_gives_a_connection_new_time(self, clock: Clock) -> None:
        pool = fake_pool(expiry=4.0)
        for _ in range(5):
            (lease,) = await leases(pool, 1)
            lease.release()
            clock.now += 3.0
            pool.expire()
        assert pool.counters.reused == 4

    async def test_close_closes_all(self) -> None:
        pool = fake_pool()
        taken = await leases(pool, 3)
        for lease in taken:
            lease.release()
        pool.close()
        assert all(lease.connection.transport.is_closing() for lease in taken)
        assert repr(pool).startswith("<Pool idle=0 keys=0 ")


class TestSpent:
    """What must not be kept, or leaves while it is idle."""

    @pytest.mark.parametrize("fault", ["eof", "excess", "error", "closing", "unsent"])
    async def test_a_spent_connection_is_not_kept(self, fault: str) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        connection = lease.connection
        if fault == "eof":
            connection.eof_received()
        elif fault == "excess":
            connection.buffer = b"HTTP/1.1 200 OK"
        elif fault == "error":
            connection.fail(RouterError(UPSTREAM_CLOSED))
        elif fault == "closing":
            connection.transport.close()
        else:
            connection.writing_paused = True
        lease.release()
        assert pool.statistics() | {"upstream_idle": 0, "released": 0, "discarded": 1} == pool.statistics()

    @pytest.mark.parametrize("event", ["eof", "lost", "bytes"])
    async def test_an_idle_connection_that_says_something_leaves_at_once(self, event: str) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        lease.release()
        if event == "eof":
            lease.connection.eof_received()
        elif event == "lost":
            lease.connection.connection_lost(ConnectionResetError())
        else:
            lease.connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert pool.reuse(target()) is None
        assert (pool.statistics()["upstream_idle"], pool.statistics()["pool_keys"]) == (0, 0)


class TestCost:
    """O(1): what one request costs does not depend on the number of sandboxes."""

    async def test_nobody_else_is_touched_by_acquire_release_and_expire(self) -> None:
        pool = fake_pool()
        others = []
        for number in range(1000):
            (lease,) = await leases(pool, 1, target(f"box-{number}"))
            lease.release()
            others.append(cast(FakeTransport, lease.connection.transport))
        (lease,) = await leases(pool, 1, target("mine"))
        before = sum(transport.touched for transport in others)
        for _ in range(10):
            lease.release()
            pool.expire()
            again = pool.reuse(target("mine"))
            assert again is not None
            lease = again
        assert sum(transport.touched for transport in others) == before

    async def test_many_uses_of_one_connection_leave_nothing_behind(self) -> None:
        pool = fake_pool()
        (lease,) = await leases(pool, 1)
        lease.release()
        for _ in range(20_000):
            again = pool.reuse(target())
            assert again is not None
            again.release()
        began = time.perf_counter()
        pool.expire()
        assert time.perf_counter() - began < 0.01
        assert (pool.statistics()["upstream_idle"], pool.statistics()["pool_keys"]) == (1, 1)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "release", "discard", "eof", "lost", "bytes", "expire", "wait"]),
        st.integers(0, 7),
    ),
    max_size=60,
)


class TestProperty:
    @given(operations=OPERATIONS, max_idle=st.integers(0, 3))
    async def test_every_lease_is_accounted_for_once(
        self, operations: list[tuple[str, int]], max_idle: int
    ) -> None:
        _of_the_test[0] = Targets()
        pool = fake_pool(max_idle=max_idle, expiry=2.0)
        clock = Clock()
        held: list[Lease] = []
        seen: list[Upstream] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool_module, "time", clock)
            for operation, number in operations:
                if operation == "acquire":
                    lease = await pool.acquire(target(f"box-{number % 2}"), 1.0)
                    assert lease.connection.state is State.ACTIVE
                    assert lease.connection not in [other.connection for other in held]
                    held.append(lease)
                    seen.append(lease.connection)
                elif operation in {"release", "discard"} and held:
                    getattr(held.pop(number % len(held)), operation)()
                elif operation in {"eof", "lost", "bytes"} and seen:
                    happen(seen[number % len(seen)], operation)
                elif operation == "expire":
                    pool.expire()
                elif operation == "wait":
                    clock.now += number / 4
                check(pool, held, seen)


def happen(connection: Upstream, event: str) -> None:
    if connection.state is State.CLOSED or connection.eof:
        return
    if event == "eof":
        connection.eof_received()
    elif event == "lost":
        connection.connection_lost(None)
    else:
        connection.data_received(b"x")


def check(pool: Pool, held: list[Lease], seen: list[Upstream]) -> None:
    numbers = pool.statistics()
    assert numbers["acquired"] == numbers["released"] + numbers["discarded"] + len(held)
    assert numbers["upstream_active"] == len(held)
    usable = [c for c in set(seen) if c.state is State.IDLE and not c.eof and not c.transport.is_closing()]
    assert numbers["upstream_idle"] == len(usable)
    assert numbers["pool_keys"] == len({c.target.key for c in usable})


class TestOnTheWire:
    @pytest.fixture
    async def router(self) -> AsyncIterator[Stage]:
        async with stage() as set_:
            yield set_

    async def test_a_hundred_requests_take_two_connections_and_two_questions_at_most(
        self, router: Stage
    ) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for _ in range(100):
            await client.send(request(box))
            assert (await client.response())[1] == b"ok"
        assert len(box.visits) <= 2
        assert len(router.dns.questions) <= 2
        assert {name for name, _ in router.dns.questions} == {"box.default.svc.cluster.local"}

    @pytest.mark.parametrize("end", ["close", "reset", "speak"])
    async def test_a_sandbox_that_ends_an_idle_connection_frees_it(self, router: Stage, end: str) -> None:
        async def once(visit: Visit) -> None:
            await visit.head()
            await visit.send(ok())
            await eventually(lambda: router.server.pool.statistics()["upstream_idle"] == 1)
            if end == "close":
                visit.close()
            elif end == "reset":
                visit.reset()
            else:
                await visit.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                await visit.gone()

        box = await router.sandbox(once)
        client = await router.client()
        await client.send(request(box))
        await client.response()
        await eventually(lambda: router.server.pool.statistics()["upstream_idle"] == 0)
        box.handler = always(ok(b"next"))
        await client.send(request(box, method=b"POST"))
        assert (await client.response())[1] == b"next"

    async def test_a_connection_whose_end_waits_unread_is_not_used(self, router: Stage) -> None:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box))
        await client.response()
        (idle,) = router.server.pool._wheel
        idle.pause_reading()
        idle.idle_since -= 2.0  # it has rested for a while
        box.visits[0].close()
        await box.visits[0].writer.wait_closed()
        await client.send(request(box, method=b"POST"))
        assert (await client.response())[1] == b"ok"
        assert len(box.visits) == 2

    async def test_idle_connections_are_closed_after_their_time(self) -> None:
        async with stage(keepalive_expiry=0.3) as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            await client.send(request(box))
            await client.response()
            await eventually(box.visits[0].reader.at_eof)
            assert router.server.pool.statistics()["upstream_idle"] == 0

    async def test_no_reuse_means_a_question_and_a_connection_for_each_request(self) -> None:
        async with stage(max_keepalive=0) as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            for _ in range(3):
                await client.send(request(box))
                await client.response()
            assert len(box.visits) == 3
            assert len(router.dns.questions) == 3

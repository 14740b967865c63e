"""Fresh connections: retries while a sandbox starts, and one gate per sandbox."""

from __future__ import annotations

import asyncio
import errno
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import pytest

from fastrouter.errors import (
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    CONNECT_UNREACHABLE,
    DNS_NOT_FOUND,
    UPSTREAM_CLOSED,
    Cause,
    RouterError,
)
from fastrouter.net import dialer as dialer_module
from fastrouter.net.backend import DialError
from fastrouter.net.dialer import MAX_CONNECT_SECONDS, Dialer
from fastrouter.net.outbox import Outbox
from fastrouter.net.pool import Pool
from fastrouter.net.upstream import Upstream
from fastrouter.policy.plan import plan_response
from fastrouter.policy.target import PoolKey, Target
from fastrouter.wire.head_cache import HeadCache
from tests.support import ScriptedSandbox, Stage, always, eventually, free_port, ok, request, stage

BOX = Target(PoolKey("box", "default", 1), "box.default.svc.cluster.local")
OTHER = Target(PoolKey("other", "default", 1), "other.default.svc.cluster.local")
REFUSED = DialError(CONNECT_REFUSED, "refused")


class Backend(httpcore.AsyncMockBackend):
    """Answers each attempt as told: an exception, or a connection; `hold` makes attempts wait."""

    def __init__(self, *outcomes: Exception | None) -> None:
        super().__init__([])
        self._outcomes = list(outcomes)
        self.timeouts: list[float | None] = []
        self.open = asyncio.Event()
        self.open.set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.timeouts.append(timeout)
        await self.open.wait()
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome
        return Stream([])


class Stream(httpcore.AsyncMockStream):
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        await asyncio.Event().wait()
        return b""


@pytest.fixture
async def connections() -> Any:
    """Make connections, and close them after the test."""
    made: list[Upstream] = []
    pool = Pool(max_idle=1, expiry=1.0)

    def make(target: Target) -> Upstream:
        made.append(Upstream(asyncio.get_running_loop(), Outbox(), target, HeadCache(plan_response), pool))
        return made[-1]

    yield make
    for connection in made:
        connection.abort()
    await asyncio.sleep(0)


Make = Callable[[Target], Upstream]


async def cause_of(dialer: Dialer) -> Cause:
    with pytest.raises(RouterError) as caught:
        await dialer.dial(BOX, 1.0)
    return caught.value.cause


class TestWindow:
    async def test_failures_are_tried_again_within_the_window(self, connections: Make) -> None:
        dialer = Dialer(
            Backend(REFUSED, DialError(DNS_NOT_FOUND, ""), REFUSED), connections, retry_window=5.0
        )
        began = time.monotonic()
        connection = await dialer.dial(BOX, 1.0)
        assert connection.target is BOX
        assert dialer.attempts == 4
        # Pauses of 50, 100 and 200 ms, each shortened by at most half.
        assert 0.175 <= time.monotonic() - began < 1.0

    async def test_a_window_of_zero_is_one_attempt(self, connections: Make) -> None:
        dialer = Dialer(Backend(REFUSED), connections, retry_window=0.0)
        assert await cause_of(dialer) is CONNECT_REFUSED
        assert dialer.attempts == 1

    async def test_the_window_ends_with_the_last_cause(self, connections: Make) -> None:
        backend = Backend(DialError(DNS_NOT_FOUND, ""))
        backend._outcomes.extend([REFUSED] * 50)
        dialer = Dialer(backend, connections, retry_window=0.3)
        began = time.monotonic()
        assert await cause_of(dialer) is CONNECT_REFUSED
        assert time.monotonic() - began < 0.6
        assert 2 <= dialer.attempts <= 6

    async def test_pauses_grow_to_half_a_second(self) -> None:
        pauses = dialer_module._backoff()
        most = [0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5]
        for limit in most:
            assert limit / 2 <= next(pauses) <= limit

    @pytest.mark.parametrize(("limit", "attempt"), [(2.0, 2.0), (180.0, MAX_CONNECT_SECONDS)])
    async def test_an_attempt_has_the_lesser_of_both_limits(
        self, connections: Make, limit: float, attempt: float
    ) -> None:
        backend = Backend()
        await Dialer(backend, connections, retry_window=0.0).dial(BOX, limit)
        assert backend.timeouts == [attempt]

    @pytest.mark.parametrize(
        ("error", "behind", "cause"),
        [
            (DialError(DNS_NOT_FOUND, "x"), None, DNS_NOT_FOUND),
            (httpcore.ConnectTimeout(), None, CONNECT_TIMEOUT),
            (httpcore.ConnectError(), OSError(errno.ECONNREFUSED, ""), CONNECT_REFUSED),
            (httpcore.ConnectError(), OSError(errno.EHOSTUNREACH, ""), CONNECT_UNREACHABLE),
            (httpcore.ConnectError(), None, CONNECT_UNREACHABLE),
        ],
    )
    async def test_the_cause_is_told_by_any_backends_error(
        self, connections: Make, error: Exception, behind: Exception | None, cause: Cause
    ) -> None:
        error.__cause__ = behind
        assert await cause_of(Dialer(Backend(error), connections, retry_window=0.0)) is cause


class TestGate:
    async def test_the_first_dial_is_shared_until_its_outcome(self, connections: Make) -> None:
        backend = Backend()
        backend.open.clear()
        dialer = Dialer(backend, connections, retry_window=1.0)
        dials = [asyncio.create_task(dialer.dial(BOX, 1.0)) for _ in range(50)]
        other = asyncio.create_task(dialer.dial(OTHER, 1.0))
        await asyncio.sleep(0.01)
        assert dialer.attempts == 2  # one for each sandbox
        assert repr(dialer) == "<Dialer gates=2 attempts=2>"
        backend.open.set()
        made = await asyncio.gather(*dials, other)
        assert len(set(made)) == 51
        assert repr(dialer) == "<Dialer gates=0 attempts=51>"

    async def test_all_who_wait_dial_in_parallel_after_a_success(self, connections: Make) -> None:
        backend = Backend()
        backend.open.clear()
        dialer = Dialer(backend, connections, retry_window=1.0)
        dials = [asyncio.create_task(dialer.dial(BOX, 1.0)) for _ in range(10)]
        await asyncio.sleep(0.01)
        backend.open.set()
        await asyncio.sleep(0)
        backend.open.clear()
        await eventually(lambda: dialer.attempts == 10)
        backend.open.set()
        await asyncio.gather(*dials)

    async def test_without_a_window_all_share_one_failure(self, connections: Make) -> None:
        backend = Backend(REFUSED)
        backend.open.clear()
        dialer = Dialer(backend, connections, retry_window=0.0)
        dials = [asyncio.create_task(cause_of(dialer)) for _ in range(50)]
        await asyncio.sleep(0.01)
        backend.open.set()
        assert await asyncio.gather(*dials) == [CONNECT_REFUSED] * 50
        assert dialer.attempts == 1

    async def test_another_leads_when_the_leader_is_cancelled(self, connections: Make) -> None:
        backend = Backend()
        backend.open.clear()
        dialer = Dialer(backend, connections, retry_window=1.0)
        leader, *others = [asyncio.create_task(dialer.dial(BOX, 1.0)) for _ in range(3)]
        await asyncio.sleep(0.01)
        leader.cancel()
        await eventually(lambda: dialer.attempts == 2)
        backend.open.set()
        assert len(await asyncio.gather(*others)) == 2

    async def test_one_who_waits_may_be_cancelled_alone(self, connections: Make) -> None:
        backend = Backend()
        backend.open.clear()
        dialer = Dialer(backend, connections, retry_window=1.0)
        leader, waiter, other = [asyncio.create_task(dialer.dial(BOX, 1.0)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiter.cancel()
        backend.open.set()
        assert len(await asyncio.gather(leader, other)) == 2
        assert waiter.cancelled()

    async def test_one_who_came_late_goes_on_where_the_leader_gave_up(
        self, connections: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dialer_module, "_backoff", lambda: itertools.repeat(0.2))
        dialer = Dialer(Backend(REFUSED, REFUSED, REFUSED), connections, retry_window=0.5)
        early = asyncio.create_task(cause_of(dialer))  # dials at 0, 0.2 and 0.4 s, and has no time for more
        await asyncio.sleep(0.3)
        late = asyncio.create_task(dialer.dial(BOX, 1.0))
        assert await early is CONNECT_REFUSED
        assert not late.done()
        began = time.monotonic()
        await late
        assert time.monotonic() - began == pytest.approx(0.2, abs=0.1)
        assert dialer.attempts == 4

    async def test_an_error_that_is_no_dial_is_not_tried_again(self, connections: Make) -> None:
        def broken(_target: Target) -> Upstream:
            raise RouterError(UPSTREAM_CLOSED)

        dialer = Dialer(Backend(), broken, retry_window=1.0)
        with pytest.raises(RouterError):
            await dialer.dial(BOX, 1.0)
        assert dialer.attempts == 1


class TestOnTheWire:
    """Requests to a sandbox that is not there yet: contract section 5."""

    async def wait_all(self, router: Stage, port: int, count: int, after: Callable[[], Any]) -> list[bytes]:
        clients = [await router.client() for _ in range(count)]
        for client in clients:
            await client.send(request(port, method=b"POST", body=b"command"))
        await asyncio.sleep(1.5)  # the time that the sandbox takes to start
        assert router.server.pool.dialer.attempts <= 10
        await after()
        return [(await client.response())[1] for client in clients]

    @pytest.mark.parametrize("missing", ["name", "port"])
    async def test_two_hundred_posts_wait_for_a_sandbox_with_ten_dials_at_most(self, missing: str) -> None:
        async with stage(dial_retry=3.0) as router:
            port = free_port()
            name = "box.default.svc.cluster.local"
            box = ScriptedSandbox(always(ok(b"done")))
            if missing == "name":
                await box.start(port=port)
            else:
                router.zone[name] = ["127.0.0.1"]

            async def appear() -> None:
                if missing == "name":
                    router.zone[name] = ["127.0.0.1"]
                else:
                    await box.start(port=port)

            assert await self.wait_all(router, port, 200, appear) == [b"done"] * 200
            assert len(box.visits) <= 200
            await box.close()

    async def test_two_hundred_requests_for_a_sandbox_that_never_comes_do_not_storm_it(self) -> None:
        async with stage(dial_retry=1.0) as router:
            router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
            port = free_port()
            clients = [await router.client() for _ in range(200)]
            began = time.monotonic()
            for client in clients:
                await client.send(request(port))
                await asyncio.sleep(0.001)
            for client in clients:
                assert (await client.error())[2] == "connect_refused"
            assert router.server.pool.dialer.attempts <= 20
            assert router.dns.asked <= 20
            assert time.monotonic() - began < 3.0

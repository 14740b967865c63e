"""`net.pool`: a connection taken and given back, with one sandbox and with many.

A connection that rested longer than a tenth of a second is asked whether it is still open. With all keys in
turn that is so for each; the transport of these has no socket, so the question is put but costs no system
call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import Crowd
from bench.micro.samples import expect, in_random_order, target
from fastrouter.net.outbox import Outbox
from fastrouter.net.pool import Pool
from fastrouter.net.upstream import Upstream
from fastrouter.policy.plan import ResponsePlan, plan_response
from fastrouter.policy.target import Target
from fastrouter.wire.head_cache import HeadCache

pytestmark = pytest.mark.benchmark(group="net.pool")


class NoTransport(asyncio.Transport):
    """An open connection to nowhere."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know nothing."""
        return default

    def get_write_buffer_size(self) -> int:
        """Owe nothing."""
        return 0


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Connections belong to a loop; it does not run."""
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


def filled(loop: asyncio.AbstractEventLoop, targets: list[Target]) -> Pool:
    """Return a pool with one idle connection for each target, none of which expires."""
    pool = Pool(max_idle=20, expiry=3600.0)
    heads: HeadCache[ResponsePlan] = HeadCache(plan_response)
    transport = NoTransport()
    for each in targets:
        connection = Upstream(loop, Outbox(), each, heads, pool)
        connection.connection_made(transport)
        pool.take_back(connection, time.monotonic())
    return pool


def bench_reuse_and_take_back(
    benchmark: BenchmarkFixture, crowd: Crowd, loop: asyncio.AbstractEventLoop
) -> None:
    """A lease of the idle connection, and its end."""
    targets = [target(number) for number in range(crowd.keys)]
    pool = filled(loop, targets)
    following = in_random_order(targets if crowd.everyone else targets[:1])

    def exchange() -> bool:
        lease = pool.reuse(next(following))
        if lease is None:
            return False
        pool.take_back(lease.connection, time.monotonic())
        return True

    expect(benchmark(exchange), True)
    expect(pool.statistics()["upstream_idle"], crowd.keys)


def bench_reuse_of_an_unknown_key(
    benchmark: BenchmarkFixture, crowd: Crowd, loop: asyncio.AbstractEventLoop
) -> None:
    """No connection is idle: the answer before a dial."""
    targets = [target(number) for number in range(crowd.keys)]
    pool = filled(loop, targets)
    strangers = [target(-number) for number in range(1, crowd.keys + 1)]
    following = in_random_order(strangers if crowd.everyone else strangers[:1])
    expect(benchmark(lambda: pool.reuse(next(following))), None)


def bench_expire_with_nothing_expired(
    benchmark: BenchmarkFixture, crowd: Crowd, loop: asyncio.AbstractEventLoop
) -> None:
    """What the sweep asks of the pool, over and over."""
    pool = filled(loop, [target(number) for number in range(crowd.keys)])
    benchmark(pool.expire)
    expect(pool.statistics()["upstream_idle"], crowd.keys)

"""`net.resolver`: a name that is known, among one and among many.

The resolver keeps 65,536 names and lets the oldest go: where more are asked for, the names of this benchmark
are the ones asked for last.
"""

from __future__ import annotations

import asyncio

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import Crowd
from bench.micro.samples import completed, expect, in_random_order, target
from fastrouter.net import resolver as resolver_module
from fastrouter.net.resolver import Resolver

pytestmark = pytest.mark.benchmark(group="net.resolver")

KEPT = 65536
ASKED_AT_ONCE = 1000
ADDRESS = "127.0.0.1"


class QuickChannel:
    """Stands in for a c-ares channel: knows every name, at once, for a day."""

    def __init__(self, servers: object) -> None:
        """Need no server."""

    async def ask(self, name: str) -> list[tuple[str, float]]:
        """Answer."""
        return [(ADDRESS, 86400.0)]

    async def retire(self) -> None:
        """Have nothing to close."""


@pytest.fixture(autouse=True)
def no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep c-ares out: a hit does not come near it."""
    monkeypatch.setattr(resolver_module, "Channel", QuickChannel)


async def filled(names: list[str]) -> Resolver:
    """Return a resolver that was asked for all of the names."""
    resolver = Resolver()
    for start in range(0, len(names), ASKED_AT_ONCE):
        await asyncio.gather(*map(resolver.resolve, names[start : start + ASKED_AT_ONCE]))
    return resolver


def bench_hit(benchmark: BenchmarkFixture, crowd: Crowd) -> None:
    """The coroutine from its call to its result."""
    names = [target(number).host for number in range(crowd.keys)]
    resolver = asyncio.run(filled(names))
    known = names[-KEPT:]
    following = in_random_order(known if crowd.everyone else known[-1:])
    expect(benchmark(lambda: completed(resolver.resolve(next(following)))), [ADDRESS])
    expect(resolver.questions, crowd.keys)

"""`wire.head_cache`: heads seen before, heads that differ in ids, lengths and dates, and heads never seen.

Heads that differ are written by each call: a fifth of a microsecond of every such number.
"""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import ANSWER, DATED, EXECUTE, RULES, TRACED, UNKNOWN, expect
from fastrouter.policy.plan import RequestPlan, ResponsePlan, plan_request, plan_response
from fastrouter.policy.templates import RequestTemplates, ResponseTemplates
from fastrouter.wire.head_cache import HeadCache

pytestmark = pytest.mark.benchmark(group="wire.head_cache")


def request_heads() -> HeadCache[RequestPlan]:
    """The cache as the server makes it; the head comes a second time before it is kept."""
    heads = HeadCache(partial(plan_request, rules=RULES), RequestTemplates(RULES))
    for _ in range(3):
        heads.get(EXECUTE)
    return heads


def response_heads() -> HeadCache[ResponsePlan]:
    """The same for answers."""
    heads = HeadCache(plan_response, ResponseTemplates())
    for _ in range(3):
        heads.get(ANSWER)
    return heads


def bench_request_seen(benchmark: BenchmarkFixture) -> None:
    """The same bytes again."""
    heads = request_heads()
    expect(benchmark(heads.get, EXECUTE), heads.get(EXECUTE))


def bench_response_seen(benchmark: BenchmarkFixture) -> None:
    """The same bytes again."""
    heads = response_heads()
    expect(benchmark(heads.get, ANSWER), heads.get(ANSWER))


def bench_request_with_new_ids(benchmark: BenchmarkFixture) -> None:
    """New trace and request ids each time, and other lengths."""
    heads, numbers = request_heads(), count()

    def get() -> RequestPlan:
        number = next(numbers)
        return heads.get(TRACED % (number, number, 20 + number % 64))

    expect(benchmark(get).is_idempotent, False)


def bench_response_with_new_date(benchmark: BenchmarkFixture) -> None:
    """Another length and another second each time: 86,400 dates and 997 lengths."""
    heads, numbers = response_heads(), count()

    def get() -> ResponsePlan:
        number = next(numbers)
        return heads.get(DATED % (number // 3600 % 24, number // 60 % 60, number % 60, number % 997))

    expect(benchmark(get).is_final, True)


def bench_request_never_seen(benchmark: BenchmarkFixture) -> None:
    """An unknown header of which each value is new: checks, h11 and plan, and nothing kept."""
    heads, numbers = request_heads(), count()

    def get() -> RequestPlan:
        return heads.get(UNKNOWN % next(numbers))

    expect(benchmark(get).body_length, 27)

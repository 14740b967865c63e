"""`wire.heads`: the strict checks and h11, for a head never seen before."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import ANSWER, EXECUTE, TRACED, expect
from fastrouter.wire.heads import check_incomplete, parse_request, parse_response

pytestmark = pytest.mark.benchmark(group="wire.heads")


def bench_parse_request(benchmark: BenchmarkFixture) -> None:
    """Ten fields, as python-requests sends them."""
    expect(benchmark(parse_request, EXECUTE).target, b"/execute")


def bench_parse_request_traced(benchmark: BenchmarkFixture) -> None:
    """Twelve fields."""
    expect(benchmark(parse_request, TRACED % (1, 1, 27)).framing.length, 27)


def bench_parse_response(benchmark: BenchmarkFixture) -> None:
    """Four fields, as uvicorn sends them."""
    expect(benchmark(parse_response, ANSWER).status, 200)


def bench_check_incomplete(benchmark: BenchmarkFixture) -> None:
    """A head that came but for its last line."""
    benchmark(check_incomplete, EXECUTE[:-4], 0)

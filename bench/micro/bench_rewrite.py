"""`policy.rewrite`: heads written anew for the other side."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import ANSWER, EXECUTE, RULES, expect, target
from fastrouter.policy import rewrite
from fastrouter.wire.heads import parse_request, parse_response

pytestmark = pytest.mark.benchmark(group="policy.rewrite")


def bench_request_head(benchmark: BenchmarkFixture) -> None:
    """For the sandbox."""
    written = benchmark(rewrite.request_head, parse_request(EXECUTE), target(1), RULES)
    expect(written.startswith(b"POST /execute HTTP/1.1\r\n"), True)


def bench_response_head(benchmark: BenchmarkFixture) -> None:
    """For the client."""
    written = benchmark(rewrite.response_head, parse_response(ANSWER), http11=True, close=False)
    expect(written + b"\r\n", ANSWER)


def bench_trailers(benchmark: BenchmarkFixture) -> None:
    """Two, one of which stops here."""
    fields = ((b"x-checksum", b"X-Checksum", b"1"), (b"host", b"Host", b"h"))
    expect(benchmark(rewrite.trailers, fields), fields[:1])

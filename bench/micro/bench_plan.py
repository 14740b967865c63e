"""`policy.plan` and `policy.target`: what follows from a head, worked out for one never seen before."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import ANSWER, EXECUTE, RULES, expect
from fastrouter.policy.plan import plan_request, plan_response
from fastrouter.policy.target import resolve_target
from fastrouter.wire.heads import parse_request


@pytest.mark.benchmark(group="policy.plan")
def bench_plan_request(benchmark: BenchmarkFixture) -> None:
    """Parse, target, head for the sandbox, names for the log."""
    expect(benchmark(plan_request, EXECUTE, RULES).body_length, 27)


@pytest.mark.benchmark(group="policy.plan")
def bench_plan_response(benchmark: BenchmarkFixture) -> None:
    """Parse, and the head for the client."""
    expect(benchmark(plan_response, ANSWER).length, 62)


@pytest.mark.benchmark(group="policy.target")
def bench_resolve_target(benchmark: BenchmarkFixture) -> None:
    """The routing headers among ten fields."""
    fields = parse_request(EXECUTE).fields
    expect(benchmark(resolve_target, fields, RULES.cluster_domain).key.sandbox_id, "sandbox-1")

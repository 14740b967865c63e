"""`telemetry.access_log`: one line; every 500th or so hands a batch to the writing thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.samples import EXECUTE, RULES, expect
from fastrouter.policy.plan import plan_request
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.telemetry.outcome import Outcome

pytestmark = pytest.mark.benchmark(group="telemetry.access_log")


@pytest.fixture
def log() -> Iterator[AccessLog]:
    """A log that nobody reads."""
    fd = os.open(os.devnull, os.O_WRONLY)
    log = AccessLog(fd)
    yield log
    log.close()
    os.close(fd)


def bench_record(benchmark: BenchmarkFixture, log: AccessLog) -> None:
    """The line of an ordinary request."""
    subject = plan_request(EXECUTE, RULES).log_subject
    outcome = Outcome(0.0)
    outcome.status, outcome.bytes_in, outcome.bytes_out = 200, 27, 62
    outcome.upstream, outcome.reused = "10.0.0.1:8888", True
    benchmark(log.record, subject, outcome, 0.00123)
    expect(log.dropped, 0)

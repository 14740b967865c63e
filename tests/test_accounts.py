"""The account of a request: counted once, and told to the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from fastrouter.accounts import LEFT, Accounts, sandbox_of
from fastrouter.policy.plan import RequestPlan, plan_request
from fastrouter.policy.rules import Rules
from fastrouter.telemetry.access_log import AccessLog
from fastrouter.telemetry.metrics import Metrics


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def plan(*lines: str, request: str = "GET /a HTTP/1.1") -> RequestPlan:
    raw = "\r\n".join([request, "Host: r", *lines, "", ""]).encode("ascii")
    return plan_request(raw, Rules(request_ids=True))


def test_an_id_is_the_clients_or_a_new_one_each_time() -> None:
    accounts = Accounts(Metrics(), None, gives_ids=True)
    assert accounts.begin(plan("X-Request-ID: abc")).request_id == b"abc"
    made = {accounts.begin(one).request_id for one in (plan(), plan(), None, None)}
    assert len(made) == 4
    assert all(len(each) == 32 for each in made)


def test_without_ids_there_is_none() -> None:
    assert Accounts(Metrics(), None, gives_ids=False).begin(plan("X-Request-ID: abc")).request_id == b""


def test_a_request_is_counted_and_told(pipe: tuple[int, int]) -> None:
    read, write = pipe
    metrics, log = Metrics(), AccessLog(write)
    accounts = Accounts(metrics, log, gives_ids=True)
    asked = plan("X-Sandbox-ID: box", "X-Request-ID: abc", f"traceparent: 00-{'1' * 32}-{'2' * 16}-01")
    outcome = accounts.begin(asked)
    outcome.status = 502
    outcome.fail("upstream_closed", upstreams=True)
    accounts.settle(asked, outcome, time.monotonic())
    log.close()
    line = json.loads(os.read(read, 65536))
    assert (line["sandbox_id"], line["request_id"], line["trace_id"]) == ("box", "abc", "1" * 32)
    assert (metrics.requests, metrics.faults) == (1, 1)
    assert metrics.failures[0].sandbox_id == "box"
    assert abs(metrics.failures[0].time - time.time()) < 60


def test_a_client_that_left_is_nobodys_failure() -> None:
    metrics = Metrics()
    accounts = Accounts(metrics, None, gives_ids=True)
    outcome = accounts.begin(plan())
    outcome.status, outcome.reason = 499, LEFT
    accounts.settle(plan(), outcome, time.monotonic())
    assert (metrics.requests, metrics.faults) == (1, 0)


def test_where_no_head_was_read_there_is_no_sandbox() -> None:
    metrics = Metrics()
    accounts = Accounts(metrics, None, gives_ids=True)
    outcome = accounts.begin(None)
    outcome.status = 400
    outcome.fail("bad_request", upstreams=False)
    accounts.settle(None, outcome, time.monotonic())
    assert metrics.failures[0].method == metrics.failures[0].namespace == "none"
    assert (sandbox_of(None), sandbox_of(plan()), sandbox_of(plan("X-Sandbox-ID: box"))) == ("", "", "box")

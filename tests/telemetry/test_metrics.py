"""What is counted, under which labels, and that nobody can make it grow without end."""

from __future__ import annotations

import math

import pytest

from fastrouter.telemetry.families import DURATIONS, SHORT_DURATIONS
from fastrouter.telemetry.metrics import MAX_NAMESPACES, MAX_SERIES, Metrics, Observations
from fastrouter.telemetry.outcome import Outcome
from fastrouter.telemetry.snapshot import MAX_FAILURES, Snapshot, empty

GET = ("GET", "default")


def outcome(status: int = 200, *, reached: bool = True, **facts: object) -> Outcome:
    made = Outcome(10.0)
    made.status = status
    made.upstream = "127.0.0.1:8888" if reached else ""
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def told(metrics: Metrics) -> Snapshot:
    snapshot = empty(1, "0", 0.0)
    metrics.tell(snapshot)
    return snapshot


def requests(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return told(metrics).values["requests"]


def test_requests_by_method_code_and_namespace() -> None:
    metrics = Metrics()
    for counted, status in [(GET, 200), (GET, 200), (GET, 404), (("POST", "team"), 200)]:
        metrics.record(counted, outcome(status), 0.1)
    assert requests(metrics) == {
        ("GET", "200", "default"): 2,
        ("GET", "404", "default"): 1,
        ("POST", "200", "team"): 1,
    }
    assert metrics.requests == 4


def test_a_namespace_has_a_name_once_a_sandbox_in_it_was_reached() -> None:
    metrics = Metrics()
    metrics.record(("GET", "invented"), outcome(502, reached=False), 0.1)
    metrics.record(("GET", "real"), outcome(), 0.1)
    metrics.record(("GET", "real"), outcome(502, reached=False), 0.1)
    metrics.record(("GET", "none"), outcome(400, reached=False), 0.1)
    assert [key[2] for key in requests(metrics)] == ["other", "real", "real", "none"]


def test_namespaces_without_end_are_one() -> None:
    metrics = Metrics()
    for number in range(MAX_NAMESPACES + 50):
        metrics.record(("GET", f"ns{number}"), outcome(), 0.1)
    rows = requests(metrics)
    assert len(rows) == MAX_NAMESPACES + 1
    assert rows["GET", "200", "other"] == 50


def test_codes_that_sandboxes_invent_are_classes() -> None:
    metrics = Metrics()
    for status in range(200, 1000):
        metrics.record(GET, outcome(status), 0.1)
    rows = requests(metrics)
    assert rows["GET", "9xx", "default"] == 100
    assert rows["GET", "404", "default"] == 1
    assert len(rows) < 80
    assert sum(rows.values()) == 800


def test_the_number_of_series_is_bounded_and_no_request_is_lost() -> None:
    metrics = Metrics()
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "other"]
    sent = 0
    for method in methods:
        for namespace in range(MAX_NAMESPACES):
            for status in (200, 201, 204, 400, 404, 500):
                metrics.record((method, f"ns{namespace}"), outcome(status), 0.1)
                sent += 1
    rows = requests(metrics)
    assert MAX_SERIES <= len(rows) <= MAX_SERIES + 10
    assert sum(rows.values()) == sent > MAX_SERIES
    assert rows["other", "2xx", "other"] > 0


def test_durations_fall_into_their_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.004, 0.005, 0.006, 1000.0):
        metrics.record(GET, outcome(), seconds)
    histogram = told(metrics).histograms["request_duration_seconds"]
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-1] == 1
    assert math.isclose(histogram.sum, 1000.015)
    assert len(histogram.counts) == len(DURATIONS) + 1


def test_the_first_byte_of_what_came_whole_is_its_last() -> None:
    metrics = Metrics()
    metrics.record(GET, outcome(), 0.3)
    metrics.record(GET, outcome(first_byte=10.02), 60.0)
    histogram = told(metrics).histograms["time_to_first_byte_seconds"]
    assert math.isclose(histogram.sum, 0.32)
    assert sum(histogram.counts) == 2


def test_failures_by_side_and_reason() -> None:
    metrics = Metrics()
    metrics.failed(GET, outcome(502, reason="upstream_closed", is_upstreams=True), 1.0, "box")
    metrics.failed(
        ("GET", "invented"), outcome(502, reached=False, reason="dns_not_found", is_upstreams=True), 2.0, "x"
    )
    metrics.failed(("GET", "none"), outcome(401, reached=False, reason="invalid_token"), 3.0, "")
    metrics.allowed = 2
    values = told(metrics).values
    assert values["upstream_errors"] == {("default", "upstream_closed"): 1, ("other", "dns_not_found"): 1}
    assert values["rejected"] == {("invalid_token",): 1}
    assert values["authz_decisions"] == {("allowed",): 2, ("denied",): 1}
    assert metrics.faults == 3
    assert [(each.sandbox_id, each.reason) for each in told(metrics).failures] == [
        ("box", "upstream_closed"),
        ("x", "dns_not_found"),
        ("", "invalid_token"),
    ]


def test_the_latest_failures_are_remembered_and_no_more() -> None:
    metrics = Metrics()
    for number in range(MAX_FAILURES + 5):
        metrics.failed(GET, outcome(502, reason="upstream_closed", is_upstreams=True), float(number), "box")
    assert [failure.time for failure in told(metrics).failures] == [
        float(n) for n in range(5, MAX_FAILURES + 5)
    ]


def test_bytes_questions_and_connections() -> None:
    metrics = Metrics()
    metrics.record(GET, outcome(bytes_in=3, bytes_out=5), 0.1)
    metrics.looked_up("found", 0.001)
    metrics.looked_up("found", 0.001)
    metrics.looked_up("failed", 2.0)
    metrics.connections += 1
    snapshot = told(metrics)
    assert snapshot.values["body_bytes"] == {("in",): 3, ("out",): 5}
    assert snapshot.values["dns_lookups"] == {("found",): 2, ("failed",): 1}
    assert snapshot.values["downstream_connections_accepted"] == {(): 1}
    assert sum(snapshot.histograms["dns_lookup_duration_seconds"].counts) == 3


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.0005, 0), (0.0006, 1), (9.0, len(SHORT_DURATIONS))]
)
def test_a_bound_belongs_to_its_bucket(seconds: float, bucket: int) -> None:
    observed = Observations(SHORT_DURATIONS)
    observed.add(seconds)
    assert observed.counts.index(1) == bucket


def test_a_snapshot_does_not_change_afterwards() -> None:
    metrics = Metrics()
    snapshot = told(metrics)
    metrics.record(GET, outcome(), 0.1)
    assert sum(snapshot.histograms["request_duration_seconds"].counts) == 0
    assert snapshot.values["requests"] == {}


def test_namespaces_beside_addresses_leave_half_of_the_names_to_those_that_dns_knows() -> None:
    metrics = Metrics()
    for number in range(MAX_NAMESPACES * 2):
        metrics.record(("GET", f"@junk{number}"), outcome(), 0.1)
    metrics.record(("GET", "prod"), outcome(), 0.1)
    rows = requests(metrics)
    assert rows["GET", "200", "prod"] == 1
    assert len(rows) == MAX_NAMESPACES // 2 + 2


def test_a_namespace_is_one_however_its_sandboxes_are_reached() -> None:
    metrics = Metrics()
    for namespace in ("team", "@team"):
        metrics.record(("GET", namespace), outcome(), 0.1)
        metrics.failed(
            ("GET", namespace), outcome(502, reason="upstream_closed", is_upstreams=True), 1.0, "box"
        )
    snapshot = told(metrics)
    assert snapshot.values["requests"] == {("GET", "200", "team"): 2}
    assert snapshot.values["upstream_errors"] == {("team", "upstream_closed"): 2}
    assert {failure.namespace for failure in snapshot.failures} == {"team"}

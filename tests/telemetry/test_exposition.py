"""What a scraper reads, read by Prometheus' own parsers."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

from fastrouter.telemetry.exposition import exposition
from fastrouter.telemetry.families import FAMILIES, PROCESS, Family
from fastrouter.telemetry.snapshot import Failure, Snapshot, empty

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.2"
PLAIN: Final = "text/plain;version=0.0.4"
FORMATS = [pytest.param(PLAIN, id="text"), pytest.param(OPENMETRICS, id="openmetrics")]
OUGHT = [family for family in FAMILIES if not family.name.startswith(PROCESS)]


def read(snapshot: Snapshot, accept: str) -> dict[str, Metric]:
    """Return what a parser makes of the page: the name of a family without ``_total`` -> the family."""
    content_type, page = exposition(snapshot, accept)
    text = page.decode()
    if content_type.startswith("application/openmetrics-text"):
        families = openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        return {each.name: each for each in families}
    return {each.name: each for each in parser.text_string_to_metric_families(text)}


def samples(metric: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


def busy() -> Snapshot:
    snapshot = empty(1, "1.2.3", 1000.0)
    snapshot.values["requests"] = {("POST", "200", "team-b"): 7, ("GET", "200", "team-a"): 5}
    snapshot.values["upstream_acquired"] = {("reused",): 11}
    snapshot.values["tunnels"] = {(): 4}
    snapshot.values["build_info"] = {("1.2.3", "3.11.2"): 1}
    snapshot.values["process_open_fds"] = {(): 12}
    lag = snapshot.histograms["event_loop_lag_seconds"]
    lag.counts = list(range(len(lag.counts)))
    lag.sum = 12.5
    return snapshot


@pytest.mark.parametrize("accept", FORMATS)
class TestPage:
    def test_every_family_is_there_with_its_type_and_help(self, accept: str) -> None:
        found = read(empty(1, "1.2.3", 1000.0), accept)
        assert list(found) == [family.stem for family in OUGHT]
        for family in OUGHT:
            assert found[family.stem].type == family.kind, family.name
            assert found[family.stem].documentation == family.help

    def test_values_carry_their_labels(self, accept: str) -> None:
        found = read(busy(), accept)
        requests = found["sandbox_router_requests"].samples
        assert [(each.name, each.labels, each.value) for each in requests] == [
            (
                "sandbox_router_requests_total",
                {"method": "GET", "code": "200", "sandbox_namespace": "team-a"},
                5.0,
            ),
            (
                "sandbox_router_requests_total",
                {"method": "POST", "code": "200", "sandbox_namespace": "team-b"},
                7.0,
            ),
        ]
        assert samples(found["sandbox_router_tunnels"]) == {(): 4.0}
        assert found["sandbox_router_build_info"].samples[0].labels == {
            "version": "1.2.3",
            "python": "3.11.2",
        }

    def test_a_histogram_is_cumulative_and_its_last_bucket_is_its_count(self, accept: str) -> None:
        found = read(busy(), accept)
        for family in OUGHT:
            if family.kind == "histogram":
                self.check(family, found[family.stem])
        lag = found["sandbox_router_event_loop_lag_seconds"].samples
        assert [each.value for each in lag if each.name.endswith("_bucket")][:4] == [0.0, 1.0, 3.0, 6.0]
        assert next(each.value for each in lag if each.name.endswith("_sum")) == 12.5

    def check(self, family: Family, metric: Metric) -> None:
        buckets = [each for each in metric.samples if each.name == f"{family.stem}_bucket"]
        assert [float(each.labels["le"]) for each in buckets] == [*family.buckets, float("inf")]
        assert all(one.value <= other.value for one, other in pairwise(buckets))
        (count,) = [each.value for each in metric.samples if each.name == f"{family.stem}_count"]
        assert buckets[-1].value == count
        assert [each.name for each in metric.samples if each.name == f"{family.stem}_sum"]

    def test_before_anything_happened_known_labels_and_plain_numbers_are_zero(self, accept: str) -> None:
        found = read(empty(1, "1.2.3", 1000.0), accept)
        assert samples(found["sandbox_router_authz_decisions"]) == {("allowed",): 0.0, ("denied",): 0.0}
        assert samples(found["sandbox_router_upstream_connections"]) == {("active",): 0.0, ("idle",): 0.0}
        assert samples(found["sandbox_router_upstream_acquired"]) == {("fresh",): 0.0, ("reused",): 0.0}
        assert samples(found["sandbox_router_dns_lookups"]) == {
            ("failed",): 0.0,
            ("found",): 0.0,
            ("not_found",): 0.0,
        }
        assert samples(found["sandbox_router_rejected"])[("missing_token",)] == 0.0
        for family in OUGHT:
            if not family.labels:
                assert {each.value for each in found[family.stem].samples} == {0.0}, family.name

    def test_a_known_label_keeps_its_zero_beside_what_was_counted(self, accept: str) -> None:
        found = read(busy(), accept)
        assert samples(found["sandbox_router_upstream_acquired"]) == {("fresh",): 0.0, ("reused",): 11.0}

    def test_a_snapshot_of_another_version_lacks_nothing_on_the_page(self, accept: str) -> None:
        assert list(read(Snapshot(1, "0.0.1", 1000.0), accept)) == [family.stem for family in OUGHT]

    def test_what_the_system_does_not_tell_is_left_out_and_what_it_tells_has_no_prefix(
        self, accept: str
    ) -> None:
        found = read(busy(), accept)
        assert samples(found["process_open_fds"]) == {(): 12.0}
        assert "process_resident_memory_bytes" not in found

    @pytest.mark.parametrize("value", ['quo"ted', "back\\slash", "line\nend", "ünïcode", 'x"} 1\nevil 2', ""])
    def test_a_label_value_cannot_forge_a_line(self, value: str, accept: str) -> None:
        snapshot = empty(1, "1.2.3", 1000.0)
        snapshot.values["upstream_errors"] = {(value, "dns_not_found"): 1}
        found = read(snapshot, accept)
        (sample,) = found["sandbox_router_upstream_errors"].samples
        assert sample.labels == {"sandbox_namespace": value, "reason": "dns_not_found"}
        assert list(found) == [family.stem for family in OUGHT]

    def test_the_page_is_the_same_for_the_same_numbers(self, accept: str) -> None:
        backwards = busy()
        backwards.values = {
            name: dict(reversed(rows.items())) for name, rows in reversed(busy().values.items())
        }
        assert exposition(backwards, accept) == exposition(busy(), accept)

    def test_nothing_is_dated(self, accept: str) -> None:
        snapshot = busy()
        snapshot.failures = [Failure(1.0, "GET", "secret-box", "team-a", 502, "dns_not_found")]
        _, page = exposition(snapshot, accept)
        assert b"_created" not in page
        assert all(each.timestamp is None for m in read(snapshot, accept).values() for each in m.samples)
        assert b"secret-box" not in page


class TestFormat:
    @pytest.mark.parametrize("accept", ["", "*/*", PLAIN, "text/html", "text/plain;version=x.y", "," * 50])
    def test_text_unless_asked_otherwise(self, accept: str) -> None:
        content_type, page = exposition(busy(), accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# TYPE sandbox_router_requests_total counter\n" in page

    @pytest.mark.parametrize("accept", [OPENMETRICS, "application/openmetrics-text"])
    def test_openmetrics_where_asked(self, accept: str) -> None:
        content_type, page = exposition(busy(), accept)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert b"# TYPE sandbox_router_requests counter\n" in page
        assert page.endswith(b"# EOF\n")

    @pytest.mark.parametrize("version", ["abc", "1.0.x", ""])
    def test_a_version_that_is_none_is_no_failure(self, version: str) -> None:
        content_type, _ = exposition(busy(), f"application/openmetrics-text;version={version}")
        assert "charset=utf-8" in content_type

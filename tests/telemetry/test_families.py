from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastrouter import errors
from fastrouter.telemetry.families import DURATIONS, FAMILIES, REJECTIONS, SHORT_DURATIONS, Family

ROOT = Path(__file__).parents[2]
CAUSES = [cause for cause in vars(errors).values() if isinstance(cause, errors.Cause)]


def rows() -> dict[str, list[str]]:
    """Return the tables of docs/metrics.md: name in full -> the other cells."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells if re.fullmatch(r"`\w+`", row[0])}


class TestTheTable:
    def test_names_are_unique(self) -> None:
        assert len({family.name for family in FAMILIES}) == len(FAMILIES)

    def test_a_counter_is_named_without_its_ending(self) -> None:
        assert [family.name for family in FAMILIES if family.name.endswith("_total")] == []

    def test_only_histograms_have_buckets_and_they_have_no_labels(self) -> None:
        for family in FAMILIES:
            assert bool(family.buckets) == (family.kind == "histogram"), family.name
            assert not (family.buckets and family.labels), family.name

    @pytest.mark.parametrize("buckets", [DURATIONS, SHORT_DURATIONS])
    def test_buckets_ascend(self, buckets: tuple[float, ...]) -> None:
        assert list(buckets) == sorted(set(buckets))

    def test_request_durations_are_counted_from_5_ms_to_180_s(self) -> None:
        assert (DURATIONS[0], DURATIONS[-1]) == (0.005, 180.0)

    def test_label_values_that_are_told_from_the_start_fit_the_labels(self) -> None:
        for family in FAMILIES:
            assert all(len(values) == len(family.labels) for values in family.known), family.name

    def test_no_metric_is_labelled_by_sandbox(self) -> None:
        labels = {label for family in FAMILIES for label in family.labels}
        assert labels == {
            *("method", "code", "sandbox_namespace", "reason", "decision", "version", "python", "state"),
            *("connection", "outcome", "side", "direction"),
        }

    def test_the_names_of_agent_sandboxs_go_router_carry_over(self) -> None:
        assert {family.sample for family in FAMILIES} >= {
            "sandbox_router_requests_total",
            "sandbox_router_request_duration_seconds",
            "sandbox_router_inflight_requests",
            "sandbox_router_upstream_errors_total",
            "sandbox_router_upstream_retries_total",
            "sandbox_router_authz_decisions_total",
            "sandbox_router_build_info",
        }

    def test_rejections_are_the_reason_words_that_no_sandbox_is_at_fault_for(self) -> None:
        ours = {
            cause.reason for cause in CAUSES if cause.source in {errors.Source.CLIENT, errors.Source.ROUTER}
        }
        assert set(REJECTIONS) == ours
        assert list(REJECTIONS) == sorted(REJECTIONS)


class TestNames:
    def test_the_prefix_and_the_ending_of_a_counter_belong_to_the_sample(self) -> None:
        assert Family("x", "counter", "X.").sample == "sandbox_router_x_total"
        assert Family("x", "gauge", "X.").sample == "sandbox_router_x"

    def test_what_every_process_tells_has_no_prefix(self) -> None:
        assert Family("process_x", "counter", "X.").sample == "process_x_total"


class TestDocumentation:
    def test_every_metric_is_documented_and_no_other(self) -> None:
        assert sorted(rows()) == sorted(family.sample for family in FAMILIES)

    @pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.name))
    def test_kind_and_labels_are_as_documented(self, family: Family) -> None:
        kind, labels, meaning, _ = rows()[family.sample]
        assert kind == family.kind
        assert labels == ", ".join(f"`{label}`" for label in family.labels)
        assert meaning

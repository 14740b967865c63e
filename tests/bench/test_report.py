"""The arithmetic and the words of the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import report
from bench.scenarios import SCENARIOS
from bench.stage import RELAY, ROUTER


def one_round(contender: str, number: int, requests: int, **changes: Any) -> report.Round:
    errors = {"connect": 0, "status": 0}
    sample = report.Round("one", contender, number, requests, 0, 1.0, 500, 900, errors, 10, 0.99, 0.0, 1, 64)
    return replace(sample, **changes)


def one_row(relay_rates: list[int], router_rates: list[int], **changes: Any) -> report.Row:
    rounds = [one_round(RELAY, number, rate) for number, rate in enumerate(relay_rates, 1)]
    rounds += [one_round(ROUTER, number, rate, **changes) for number, rate in enumerate(router_rates, 1)]
    return report.Row.of(SCENARIOS[0], rounds)


def test_ratio_is_that_of_the_medians() -> None:
    row = one_row([100, 1000, 90], [10, 60, 70])
    assert row.ratio == 0.6
    assert row.holds is True
    assert one_row([100], [49]).holds is False
    assert one_row([100], []).holds is None


def test_spread_is_in_parts_of_the_median() -> None:
    assert report.spread([90, 100, 120]) == 0.3
    assert report.spread([5]) == 0
    assert report.spread([]) is None
    assert report.spread([0, 0]) is None


def test_bulk_counts_body_bytes_per_second() -> None:
    bulk = next(scenario for scenario in SCENARIOS if scenario.download)
    assert report.rate(one_round(RELAY, 1, 100, seconds=2.0), bulk) == pytest.approx(52.4288)


def test_table_shows_both_contenders_in_aligned_columns() -> None:
    text = report.table([one_row([88_000, 90_000, 92_000], [45_000, 45_000, 54_000]), one_row([100], [])])
    heading, rule, first, second = text.splitlines()
    assert len(rule) == len(heading) == len(first) == len(second)
    assert first.split() == [
        *("one", "sandbox", "req/s", "90,000", "45,000", "0.50", "0.50", "yes"),
        *("0.50", "/", "0.50", "0.90", "/", "0.90", "10.0", "/", "10.0", "4%", "/", "20%"),
    ]
    assert "-" in second.split()


def test_remarks_name_failures_idle_cores_and_disturbance() -> None:
    assert report.remarks([one_row([100, 100], [50, 50])]) == []
    failed = one_row([100], [50], errors={"connect": 0, "status": 3})
    assert "router: FAILED in round 1: 50 answers, errors" in report.remarks([failed])[0]
    idle = one_row([100], [50, 50], core_share=0.8)
    assert "used only 80% of its core in 2 of 2 rounds" in report.remarks([idle])[0]
    disturbed = one_row([100], [50], core_share=0.8, others_share=0.2)
    assert [line.partition(":")[2] for line in report.remarks([disturbed])] == [
        " other processes took up to 20% of its core in 1 of 1 rounds: measure on a quiet machine"
    ]


def test_a_round_without_any_answer_has_failed() -> None:
    assert one_round(ROUTER, 1, 0).failed
    assert not one_round(ROUTER, 1, 1).failed

from __future__ import annotations

import json
import platform
import re
from typing import Any

import pytest

import fastrouter
from fastrouter import errors
from fastrouter.admin.status import (
    EXPLANATIONS,
    MAX_FAILURES,
    MAX_NAMESPACES,
    status_json,
    status_page,
)
from fastrouter.telemetry.families import REJECTIONS
from fastrouter.telemetry.snapshot import Failure, Snapshot, empty


def worker(pid: int = 1, started: float = 1000.0) -> Snapshot:
    snapshot = empty(pid, "1.2.3", started)
    values = snapshot.values
    values["requests"] = {
        ("GET", "200", "team-a"): 90,
        ("POST", "502", "team-a"): 4,
        ("POST", "204", "team-b"): 6,
        ("none", "0", "none"): 1,
    }
    values["upstream_errors"] = {
        ("team-a", "dns_not_found"): 1,
        ("team-a", "upstream_closed"): 3,
        ("team-b", "dns_not_found"): 1,
    }
    values["rejected"] = {("invalid_token",): 2, ("bad_request",): 0}
    values["authz_decisions"] = {("allowed",): 101, ("denied",): 2}
    values["upstream_connections"] = {("active",): 3, ("idle",): 8}
    values["upstream_acquired"] = {("reused",): 95, ("fresh",): 5}
    values["head_cache_hits"] = {("request",): 70, ("response",): 80}
    values["dns_lookups"] = {("found",): 4, ("failed",): 1}
    values["body_bytes"] = {("in",): 1000, ("out",): 9000}
    values["build_info"] = {("1.2.3", "3.11.2"): 1}
    values["accepting"] = {(): 1}
    snapshot.histograms["dial_duration_seconds"].counts[3] = 5
    return snapshot


def told(*snapshots: Snapshot, unready: list[str] | None = None, now: float = 2000.0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status_json(list(snapshots), unready or [], now))
    return found


class TestNumbers:
    def test_what_runs_and_since_when(self) -> None:
        found = told(worker(1, 1200.0), worker(2, 1100.0))
        assert (found["now"], found["started"]) == (2000.0, 1100.0)
        assert (found["version"], found["python"]) == ("1.2.3", "3.11.2")
        assert [(each["pid"], each["started"]) for each in found["workers"]] == [(2, 1100.0), (1, 1200.0)]

    def test_totals_are_those_of_all_workers(self) -> None:
        one, two = told(worker())["totals"], told(worker(1), worker(2))["totals"]
        assert two == {name: 2 * value for name, value in one.items()}
        expected = {
            "requests": 101,
            "failures": 7,
            "allowed": 101,
            "denied": 2,
            "active": 3,
            "idle": 8,
            "reused": 95,
            "fresh": 5,
            "head_hits": 150,
            "head_misses": 0,
            "bytes_in": 1000,
            "bytes_out": 9000,
        }
        assert {name: one[name] for name in expected} == expected

    def test_each_worker_tells_its_own(self) -> None:
        idle = empty(2, "1.2.3", 1500.0)
        first, second = told(worker(1), idle)["workers"]
        assert (first["requests"], first["accepting"]) == (101, True)
        assert (second["requests"], second["accepting"]) == (0, False)

    def test_requests_by_class_of_their_status(self) -> None:
        assert told(worker())["classes"] == {"0xx": 1, "2xx": 96, "5xx": 4}

    def test_histograms_carry_their_bounds(self) -> None:
        dial = told(worker())["histograms"]["dial_duration_seconds"]
        assert len(dial["counts"]) == len(dial["bounds"]) + 1
        assert dial["counts"][3] == 5

    def test_the_busiest_namespaces_come_first(self) -> None:
        assert told(worker())["namespaces"] == [["team-a", 94, 4], ["team-b", 6, 1], ["none", 1, 0]]

    def test_reason_words_the_most_frequent_first_and_none_that_never_happened(self) -> None:
        assert told(worker())["reasons"] == [
            ["upstream_closed", "sandbox", 3],
            ["dns_not_found", "sandbox", 2],
            ["invalid_token", "request", 2],
        ]

    def test_look_ups_by_outcome(self) -> None:
        assert told(worker())["lookups"] == [["failed", 1], ["found", 4]]

    def test_why_it_is_not_ready(self) -> None:
        assert told(worker())["unready"] == []
        assert told(worker(), unready=["shutting down"])["unready"] == ["shutting down"]

    def test_failures_newest_first_with_explanations(self) -> None:
        one, other = worker(1), worker(2)
        one.failures = [Failure(10.0, "GET", "box-a", "team-a", 502, "connect_refused")]
        other.failures = [Failure(11.0, "PUT", "<b>", "team-a", 504, "upstream_timeout")]
        found = told(one, other)
        assert [(each["time"], each["sandbox_id"]) for each in found["failures"]] == [
            (11.0, "<b>"),
            (10.0, "box-a"),
        ]
        assert found["explanations"]["connect_refused"] == EXPLANATIONS["connect_refused"]
        assert found["explanations"]["upstream_closed"] == EXPLANATIONS["upstream_closed"]
        assert "dns_failure" not in found["explanations"]

    def test_an_unknown_reason_word_is_told_without_explanation(self) -> None:
        one = worker()
        one.failures = [Failure(10.0, "GET", "box", "team-a", 502, "of_tomorrow")]
        found = told(one)
        assert found["failures"][0]["reason"] == "of_tomorrow"
        assert "of_tomorrow" not in found["explanations"]

    def test_without_any_worker_there_is_a_page_all_the_same(self) -> None:
        found = told(unready=["no worker runs"])
        assert (found["workers"], found["unready"]) == ([], ["no worker runs"])
        assert set(found["totals"].values()) == {0}
        assert (found["version"], found["python"]) == (fastrouter.__version__, platform.python_version())

    def test_it_stays_small_with_as_much_as_there_can_be(self) -> None:
        one = worker()
        for number in range(200):
            one.values["requests"]["GET", "200", f"{number:063}"] = number
        long = "x" * 63
        one.failures = [Failure(t, "GET", long, long, 502, "connect_refused") for t in range(MAX_FAILURES)]
        for reason in REJECTIONS:
            one.values["rejected"][(reason,)] = 1
        page = status_json([one], [], 2000.0)
        assert len(json.loads(page)["namespaces"]) == MAX_NAMESPACES
        assert len(page) < 32 * 1024


class TestExplanations:
    def test_every_reason_word_has_one_and_no_other(self) -> None:
        causes = {each.reason for each in vars(errors).values() if isinstance(each, errors.Cause)}
        assert EXPLANATIONS.keys() == causes | {"client_closed"}

    @pytest.mark.parametrize("text", EXPLANATIONS.values())
    def test_it_is_a_short_sentence(self, text: str) -> None:
        assert text.endswith(".")
        assert 10 < len(text) < 100


class TestPage:
    def test_it_is_one_html_file(self) -> None:
        page = status_page().decode()
        assert page.startswith("<!doctype html>\n")
        assert page.rstrip().endswith("</html>")
        assert len(page) < 64 * 1024

    def test_it_loads_nothing(self) -> None:
        page = status_page().decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?:|//[a-z]|@import|url\(|<script[^>]+src|<link(?! rel=.icon. href=.data:)", page
        )

    def test_no_text_can_become_markup(self) -> None:
        page = status_page().decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", page)

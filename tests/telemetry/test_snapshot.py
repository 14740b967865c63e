from __future__ import annotations

import pytest

from fastrouter.telemetry.families import FAMILIES
from fastrouter.telemetry.snapshot import MAX_FAILURES, Failure, Histogram, Snapshot, empty, merged


def failure(time: float, sandbox_id: str = "box") -> Failure:
    return Failure(time, "GET", sandbox_id, "default", 502, "connect_refused")


def snapshot(pid: int = 1, started: float = 10.0) -> Snapshot:
    """Return a snapshot of a process to which something of each kind has happened."""
    told = empty(pid, "1.2.3", started)
    told.values["requests"] = {("GET", "200", "default"): 3.0, ("POST", "502", 'quo"ted\n'): 1.0}
    told.values["inflight_requests"] = {(): 2.0}
    told.values["build_info"] = {("1.2.3", "3.11.2"): 1.0}
    told.values["process_start_time_seconds"] = {(): started}
    told.histograms["event_loop_lag_seconds"].counts[2] = 4
    told.histograms["event_loop_lag_seconds"].sum = 0.008
    told.failures = [failure(started + 1)]
    return told


class TestJson:
    def test_a_snapshot_arrives_as_it_was(self) -> None:
        assert Snapshot.from_json(snapshot().to_json()) == snapshot()

    def test_it_is_one_line(self) -> None:
        assert "\n" not in snapshot().to_json()

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", "null", snapshot().to_json()[:-10], snapshot().to_json().replace("pid", "dip")],
    )
    def test_anything_else_is_an_error_that_the_caller_knows(self, text: str) -> None:
        with pytest.raises((ValueError, KeyError, TypeError)):
            Snapshot.from_json(text)


class TestMerged:
    def test_one_is_a_copy(self) -> None:
        one = snapshot()
        whole = merged([one])
        assert whole == one
        whole.values["requests"].clear()
        whole.histograms["event_loop_lag_seconds"].counts[2] = 0
        assert one == snapshot()

    def test_values_add_up_by_label(self) -> None:
        other = snapshot(pid=2)
        other.values["requests"] = {("GET", "200", "default"): 10.0, ("GET", "404", "default"): 1.0}
        assert merged([snapshot(), other]).values["requests"] == {
            ("GET", "200", "default"): 13.0,
            ("GET", "404", "default"): 1.0,
            ("POST", "502", 'quo"ted\n'): 1.0,
        }

    def test_buckets_add_up(self) -> None:
        lag = merged([snapshot(), snapshot(), snapshot()]).histograms["event_loop_lag_seconds"]
        assert lag.counts[2] == sum(lag.counts) == 12
        assert lag.sum == pytest.approx(0.024)

    def test_what_only_one_of_them_counts_is_there(self) -> None:
        other = Snapshot(
            2, "1.2.3", 5.0, values={"new": {("a",): 1.0}}, histograms={"new": Histogram([1], 2.0)}
        )
        whole = merged([snapshot(), other])
        assert whole.values["new"] == {("a",): 1.0}
        assert whole.histograms["new"] == Histogram([1], 2.0)

    def test_what_runs_is_one_thing_since_the_first_of_them_began(self) -> None:
        whole = merged([snapshot(started=20.0), snapshot(started=10.0), snapshot(started=30.0)])
        assert whole.values["build_info"] == {("1.2.3", "3.11.2"): 1.0}
        assert whole.started == 10.0
        assert whole.values["process_start_time_seconds"] == {(): 10.0}

    def test_two_versions_during_a_rollout_both_count_once(self) -> None:
        newer = snapshot()
        newer.values["build_info"] = {("1.3.0", "3.11.2"): 1.0}
        rows = merged([snapshot(), newer]).values["build_info"]
        assert rows == {("1.2.3", "3.11.2"): 1.0, ("1.3.0", "3.11.2"): 1.0}

    def test_the_latest_failures_of_all_stay_in_order(self) -> None:
        one, other = snapshot(), snapshot()
        one.failures = [failure(time, "one") for time in range(0, 2 * MAX_FAILURES, 2)]
        other.failures = [failure(time, "other") for time in range(1, 2 * MAX_FAILURES, 2)]
        times = [each.time for each in merged([one, other]).failures]
        assert times == list(range(MAX_FAILURES, 2 * MAX_FAILURES))

    def test_nothing_is_no_sum(self) -> None:
        with pytest.raises(ValueError, match="not enough values"):
            merged([])

    def test_different_buckets_are_no_sum(self) -> None:
        other = snapshot()
        other.histograms["event_loop_lag_seconds"].counts.pop()
        with pytest.raises(ValueError, match="shorter"):
            merged([snapshot(), other])


def test_at_the_start_every_family_is_there_and_nothing_has_happened() -> None:
    told = empty(7, "1.2.3", 99.0)
    assert (told.pid, told.version, told.started, told.failures) == (7, "1.2.3", 99.0, [])
    assert told.values.keys() | told.histograms.keys() == {family.name for family in FAMILIES}
    assert not any(told.values.values())
    for family in FAMILIES:
        if family.kind == "histogram":
            assert told.histograms[family.name] == Histogram([0] * (len(family.buckets) + 1))

"""The arithmetic, the requirements and the words of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report, results
from bench.needs import FAN_OUT, RELAY, ROUTER, Need
from bench.scenarios import SCENARIOS
from tests.bench.rounds import made_up, one_round, scenario, single


def test_ratio_is_that_of_the_medians() -> None:
    run = single("one", {RELAY: [100, 1000, 90], ROUTER: [10, 60, 70]})
    assert run.ratio(scenario("one"), ROUTER) == 0.6
    assert run.ratio(scenario("one"), RELAY) == 1.0
    assert single("one", {ROUTER: [10]}).ratio(scenario("one"), ROUTER) is None


def test_spread_is_in_parts_of_the_median() -> None:
    assert results.spread([90, 100, 120]) == 0.3
    assert results.spread([5]) == 0
    assert results.spread([]) is None
    assert results.spread([0, 0]) is None


def test_downloads_count_bytes_that_came_and_uploads_whole_requests() -> None:
    one = one_round("get-1m", RELAY, 1, 100, seconds=2.0, bytes=50_000_000)
    assert results.rate(one, scenario("get-1m")) == 25.0
    assert results.rate(one, scenario("put-1m")) == pytest.approx(52.4288)
    assert results.rate(one, scenario("one")) == 50.0


def states(run: results.Results) -> dict[str, str]:
    return {one.need.words(): one.state for one in run.verdicts()}


def test_requirements_hold_are_missed_or_are_not_measured() -> None:
    run = single("one", {RELAY: [100], ROUTER: [70], "nginx": [80], "envoy": [60]})
    assert states(run) == {
        "throughput ratio to relay >= 0.65": "holds",
        "throughput ratio to nginx >= 1": "MISSED",
        "throughput ratio to caddy >= 1": "not measured",
        "throughput ratio to envoy >= 1": "holds",
        "throughput ratio to fastapi >= 40": "not measured",
    }
    assert report.summary(run.verdicts()) == "2 holds, 1 MISSED, 2 not measured"


def test_figures_that_came_with_errors_prove_nothing() -> None:
    run = single("one", {RELAY: [100]})
    run.rounds.append(one_round("one", ROUTER, 1, 90, errors={"read": 1}))
    assert states(run)["throughput ratio to relay >= 0.65"] == "not measured"


def test_flatness_compares_the_router_with_itself_and_with_what_relays_keep() -> None:
    run = single("s10000", {ROUTER: [80], RELAY: [120], FAN_OUT: [90]})
    words = "throughput ratio to router in 'one' >= 0.85"
    kept = "throughput kept from 'one', to relay >= 0.85"
    fan_out = "throughput kept from 'one', to fan-out relay >= 0.85"
    assert states(run) == dict.fromkeys((words, kept, fan_out), "not measured")
    run.scenarios.insert(0, scenario("one"))
    run.rounds += [one_round("one", ROUTER, 1, 100), one_round("one", RELAY, 1, 125)]
    assert [states(run)[need] for need in (words, kept, fan_out)] == ["MISSED", "MISSED", "not measured"]
    run.rounds[-1] = one_round("one", RELAY, 1, 130)
    assert states(run)[kept] == "holds"  # 0.80 / 0.92
    run.rounds.append(one_round("one", FAN_OUT, 1, 100))
    assert states(run)[fan_out] == "holds"  # 0.80 / 0.90


def test_upper_limits() -> None:
    assert Need("kb_per_pair", 12.0, most=True).met(12.0)
    assert not Need("kb_per_pair", 12.0, most=True).met(12.1)
    run = single("idle", {})
    run.rounds.append(one_round("idle", ROUTER, 1, 9900, pairs=9900, kb_per_pair=13.0, files_per_pair=1.0))
    assert states(run) == {"KB of RSS per pair <= 12": "MISSED"}
    assert "keeps only 1.0 connections open per pair" in report.remarks(run)[0]


def test_table_shows_every_contender_in_aligned_columns() -> None:
    run = single("one", {RELAY: [88_000, 90_000, 92_000], ROUTER: [45_000, 45_000, 54_000]})
    heading, rule, relay, router = report.aligned([report.HEADINGS, *report.rows(run)], 2).splitlines()
    assert len(rule) == len(heading) == len(relay) == len(router)
    assert relay.split() == [
        *("one", "sandbox", "relay", "90,000", "req/s", "1.00", "4%", "0.50", "0.90", "1.50", "10.0", "60")
    ]
    assert router.split()[:5] == ["router", "45,000", "req/s", "0.50", "20%"]


def test_figures_that_nobody_knows_are_dashes() -> None:
    run = single("one", {})
    unknown = {"cpu_us_per_request": None, "core_share": None, "others_share": None, "rss_bytes": None}
    run.contenders.append("mine")
    run.rounds.append(one_round("one", "mine", 1, 10, **unknown))
    assert report.rows(run)[0][-2:] == ["-", "-"]
    assert report.remarks(run) == []


def test_remarks_name_failures_idle_cores_disturbance_and_late_generators() -> None:
    assert report.remarks(single("one", {RELAY: [100, 100], ROUTER: [50, 50]})) == []
    run = single("one", {RELAY: [100], ROUTER: []})
    run.rounds.append(one_round("one", ROUTER, 1, 50, errors={"connect": 0, "status": 3}, core_share=0.8))
    run.rounds.append(one_round("one", ROUTER, 2, 50, others_share=0.2, behind_p99_us=9000))
    failed, idle, late, disturbed = report.remarks(run)
    assert failed == "one sandbox, router: FAILED in round 1: 50 answers, errors {'status': 3}"
    assert "used only 80% of its core in 1 of 2 rounds" in idle
    assert "9.0 ms late" in late
    assert "over 5% of the core under test in 1 of 3 rounds, 20% at worst (router, one)" in disturbed


def test_a_round_without_any_answer_has_failed() -> None:
    assert one_round("one", ROUTER, 1, 0).failed
    assert not one_round("one", ROUTER, 1, 1).failed


def test_table_and_plots_are_made_again_from_the_json_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = report.write(made_up(["one", "idle"]), tmp_path / "first")
    assert "results.json, table.md; 2 plots" in shown
    again = tmp_path / "again"
    assert report.main([str(tmp_path / "first" / "results.json"), "--out", str(again)]) == 0
    assert "one sandbox" in capsys.readouterr().out
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()
    assert {path.name for path in again.iterdir()} == {
        *("table.md", "one.svg", "one.png", "idle.svg", "idle.png")
    }


def test_runs_are_put_together_by_their_rounds(tmp_path: Path) -> None:
    for name, speeds in (("a", [10, 20]), ("b", [30]), ("c", [80, 90])):
        run = single("one", {RELAY: [100] * len(speeds), ROUTER: speeds})
        run.settings = {"seconds": 7, "connections": 64}
        report.write(run, tmp_path / name, plots=False)
    files = [str(tmp_path / name / "results.json") for name in ("a", "b", "c")]
    with pytest.raises(SystemExit):
        report.main(files)
    assert report.main([*files, "--out", str(tmp_path / "all")]) == 0
    whole = results.Results.load(tmp_path / "all" / "results.json")
    assert [one.number for one in whole.of("one", ROUTER)] == [1, 2, 3, 4, 5]
    assert whole.median(whole.scenarios[0], ROUTER, "rate") == 30
    assert whole.settings == {"seconds": 21, "connections": 64}
    other = single("one", {RELAY: [1], ROUTER: [1]})
    other.machine = {"cpu": "another"}
    with pytest.raises(ValueError, match="on one machine"):
        whole.together([other])


def test_results_survive_the_trip_through_json(tmp_path: Path) -> None:
    run = made_up([one.name for one in SCENARIOS])
    run.save(tmp_path / "results.json")
    assert results.Results.load(tmp_path / "results.json") == run
    (tmp_path / "old.json").write_text(json.dumps({"rounds": []}))
    with pytest.raises(ValueError, match="no result"):
        results.Results.load(tmp_path / "old.json")


def test_markdown_has_all_parts() -> None:
    run = made_up(["one", "rate-50"])
    run.skipped.append("caddy (apt-get install caddy)")
    text = report.markdown(run)
    assert "| one sandbox | req/s | 90,000 | **60,000 (0.67)** |" in text
    assert "\n- caddy (apt-get install caddy)\n" in text
    assert "| one sandbox | throughput ratio to relay >= 0.65 | 0.67 | holds |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {5, 12}

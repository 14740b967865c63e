"""What the runner decides: options, contenders, sizes, and what it does when one of them is not well."""

from __future__ import annotations

import shutil
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from bench import contenders, drive, run
from bench.contenders import Another, ByAddress, Relay, Router, Seat, Seats
from bench.needs import RELAY, ROUTER
from bench.options import Options, parse
from bench.peers.catalog import PEERS, Peer
from bench.processes import StageError
from bench.results import Results
from bench.scenarios import RATE, SCENARIOS, Scenario, requests
from bench.stage import Cores, Stage
from tests.bench.rounds import one_round, scenario, single

NOWHERE = Peer("nginx", "apt-get install nginx-light", lambda: None, lambda program, where: [program])


@dataclass
class FakeStage:
    """A stage with nothing on it."""

    folder: Path
    files: int = 20_000
    sandbox: str = "none"


def benchmark(tmp_path: Path, *arguments: str, files: int = 20_000) -> run.Benchmark:
    stage = cast(Stage, FakeStage(tmp_path, files))
    return run.Benchmark(parse(list(arguments)), stage, Cores(None, None), Results([], []))


def test_all_scenarios_are_run_with_their_own_rounds_by_default() -> None:
    options = parse([])
    assert options.scenarios == list(SCENARIOS)
    assert options.rounds_of(scenario("one")) == 5
    assert options.seconds_of(scenario("s100")) == 1.0
    options = parse(["--rounds", "7", "--seconds", "0.5", "--scenario", "s100", "one", "--peers", "all"])
    assert [one.name for one in options.scenarios] == ["one", "s100"]
    assert (options.rounds_of(scenario("one")), options.seconds_of(scenario("one"))) == (7, 0.5)
    assert options.peers == [peer.name for peer in PEERS]


def test_one_run_of_the_default_scenarios_stays_within_its_time() -> None:
    def seconds(one: Scenario) -> float:
        first, later = one.warm_up
        # Half a second beside each round: wrk, messages, 1,000 connections to open.
        return 2 * (one.rounds * (one.seconds + later + 0.25) + first - later)

    assert sum(map(seconds, SCENARIOS)) < 195


def test_routers_by_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--router", "mine=http://127.0.0.1:9000"]).router == [
        ByAddress("mine", ("127.0.0.1", 9000))
    ]
    for text in ("mine", "mine=127.0.0.1:9000", "=http://127.0.0.1:9000", "mine=https://127.0.0.1"):
        with pytest.raises(SystemExit):
            parse(["--router", text])
    assert "--router" in capsys.readouterr().err


def test_a_missing_peer_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "PEERS", (NOWHERE, replace(NOWHERE, name="caddy", find=lambda: "caddy")))
    mine = ByAddress("mine", ("127.0.0.1", 1))
    chosen, missing = contenders.choose(None, ["nginx", "caddy"], [mine])
    assert [one.name for one in chosen] == [RELAY, ROUTER, "caddy", "mine"]
    assert missing == ["nginx (apt-get install nginx-light)"]
    assert [one.name for one in contenders.choose([ROUTER], [], [])[0]] == [ROUTER]
    assert contenders.left_out([]) == [
        "peers that are installed, not asked for (make bench-peers): caddy",
        "peers that could be installed: nginx (apt-get install nginx-light)",
    ]
    assert contenders.left_out(["nginx", "caddy"]) == []


def test_every_contender_plays_what_makes_sense_for_it() -> None:
    slow = Another(replace(NOWHERE, name="fastapi", upgrades=False), "python")
    assert not Relay().plays(scenario("idle"))
    assert all(Router().plays(one) for one in SCENARIOS)
    assert {one.name for one in SCENARIOS if slow.plays(one)} == {"one", "traced", "get-1m", "put-1m"}
    quick = Another(replace(NOWHERE, upgrades=False), "python")
    assert [one.name for one in SCENARIOS if not quick.plays(one)] == ["echoes"]
    assert not ByAddress("mine", ("127.0.0.1", 1)).plays(scenario("idle"))


def test_a_router_by_url_must_be_there(tmp_path: Path) -> None:
    with socket.socket() as bound_only, ExitStack() as stack:
        bound_only.bind(("127.0.0.1", 0))
        mine = ByAddress("mine", bound_only.getsockname())
        with pytest.raises(StageError, match="does not listen"):
            mine.enter(cast(Stage, FakeStage(tmp_path)), stack)


class Unwell(Another):
    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        raise StageError("nginx ended with exit code 1: no such directive")


def test_a_peer_that_does_not_start_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = benchmark(tmp_path)
    with ExitStack() as stack:
        bench.enter([Unwell(NOWHERE, "nginx")], stack)
    assert bench.contenders == []
    assert bench.results.skipped == ["nginx: nginx ended with exit code 1: no such directive"]
    assert "skipped: nginx" in capsys.readouterr().err


def test_a_peer_that_ends_within_a_scenario_is_left_out_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Any, one: Scenario, player: Any, number: int) -> Any:
        if player.name == "nginx" and number > 1:
            raise StageError("nginx ended")
        return one_round(one.name, player.name, number, 100)

    monkeypatch.setattr(run.Benchmark, "_round", measure)
    bench = benchmark(tmp_path, "--rounds", "3")
    bench.contenders = [Router(), Another(NOWHERE, "nginx")]
    bench.run(scenario("one"))
    assert [(one.contender, one.number) for one in bench.results.rounds] == [
        *((ROUTER, 1), ("nginx", 1), (ROUTER, 2), (ROUTER, 3))
    ]
    assert bench.results.skipped == ["nginx from here on: nginx ended"]


def test_fixed_rates_are_parts_of_what_the_router_reached(tmp_path: Path) -> None:
    bench = benchmark(tmp_path)
    bench.run(scenario("rate-50"))
    assert bench.results.skipped == ["50% of capacity: needs the router among the contenders"]
    bench.results.rounds = [
        one_round("one", ROUTER, number, rate) for number, rate in enumerate([10, 30, 20])
    ]
    assert bench._capacity() == 20


def test_the_open_file_limit_makes_scenarios_smaller_and_is_told(tmp_path: Path) -> None:
    bench = benchmark(tmp_path, files=4096)
    assert bench._fit(scenario("idle")).connections == 1948
    assert bench._fit(scenario("s10000")).sandboxes == 3896
    assert bench._fit(scenario("events")).connections == 1000
    assert bench._fit(scenario("one")) == scenario("one")
    assert bench.results.skipped == [
        "idle pairs of connections: 8,052 of 10,000, the limit is 4,096 open files",
        "10,000 sandboxes: only 3,896, the limit is 4,096 open files",
    ]


def test_wrk_is_used_where_it_is_no_bottleneck() -> None:
    driver = drive.Driver(64, "wrk", None)
    used = {one.name for one in SCENARIOS if driver.uses_wrk(one, one.seconds)}
    assert used == {"one", "s100", "s1000", "s10000", "traced", "fresh"}
    assert not driver.uses_wrk(scenario("one"), 0.5)
    assert not drive.Driver(64, None, None).uses_wrk(scenario("one"), 1.0)
    assert {one.name for one in SCENARIOS if one.kind == RATE} == {"rate-10", "rate-50", "rate-80"}


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_and_our_own_report_the_same_figures(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stage = Stage(stack, Cores(None, None), "own")
        relay = Relay().enter(stage, stack)
        seat = relay.of(scenario("one"))
        assert relay.small == relay.other == seat
        found = {}
        for wrk in (shutil.which("wrk"), None):
            traced = replace(scenario("traced"), sandboxes=3)
            messages = requests(traced, seat.sandbox_port)
            job = drive.Job(traced, seat, messages, tmp_path / "messages")
            found[wrk] = drive.Driver(4, wrk, None).measure(job, 1.0 if wrk else 0.2)
    first, second = found.values()
    assert set(first) == set(second)
    assert not any([*first["errors"].values(), *second["errors"].values()])
    assert first["cpu_us_per_request"] > 1
    assert first["p50_us"] <= first["p99_us"] <= first["p999_us"]


def test_a_contender_without_a_process_has_no_use(tmp_path: Path) -> None:
    with drive.Use(None, None) as use:
        pass
    assert use.figures(1.0, 10) == {}
    with pytest.raises(StageError, match="nothing is known"):
        run._hold(scenario("idle"), "mine", Seat(None, ("127.0.0.1", 1), 1), 1)


@pytest.mark.parametrize(
    "case",
    [
        ([], 60, 0, 0),
        (["--check"], 70, 0, 0),
        (["--check"], 60, 0, 1),
        ([], 0, 0, 1),
        (["--check"], 70, 3, 0),
    ],
    ids=["missed, unchecked", "holds", "missed", "the router failed", "a peer failed"],
)
def test_exit_codes(
    case: tuple[list[str], int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(options: Options, results: Results) -> None:
        peer = one_round("one", "nginx", 1, 10, errors={"read": peer_errors})
        results.rounds = [*single("one", {RELAY: [100], ROUTER: [router]}).rounds, peer]
        results.contenders = [RELAY, ROUTER, "nginx"]

    arguments, router, peer_errors, code = case
    monkeypatch.setattr(run, "_measure", measure)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    # Where nginx fails, the ratio to it is not measured.
    assert run.main(["--scenario", "one", "--no-plots", "--out", str(tmp_path), *arguments]) == code

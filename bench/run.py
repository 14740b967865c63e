"""The runner behind ``python -m bench`` and ``make bench``.

Starts sandboxes, DNS and contenders on loopback, drives the contenders in turn, and reports.
The router runs as shipped, access log on; its log goes through a pipe that is drained and counted here.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from bench import idle, load, machine, nginx, report
from bench.contenders import Another, Contender, Router, Seat, Seats, choose, left_out
from bench.drive import Driver, Job
from bench.needs import FAN_OUT, RELAY, ROUTER
from bench.options import Options, parse
from bench.processes import Child, StageError
from bench.results import Results, Round
from bench.scenarios import CLOSED, IDLE, RATE, SCENARIOS, Scenario, requests
from bench.serving import raise_file_limit
from bench.stage import Cores, Stage

HERE: Final = Path(__file__).parent
# Files that a process needs beside its connections.
SPARE_FILES: Final = 200
# Connections that have made the router's code and caches warm before idle ones are counted.
WARM: Final = 64
STEADY: Final = 5
SETTLE_TIMEOUT: Final = 3.0


class Benchmark:
    """One run of the benchmark."""

    def __init__(self, options: Options, stage: Stage, cores: Cores, results: Results) -> None:
        """Measure on a stage that is up, into `results`."""
        self.options = options
        self.stage = stage
        self.results = results
        wrk = shutil.which("wrk") if options.generator == "wrk" else None
        self.driver = Driver(options.connections, wrk, cores.tested)
        self.seats: dict[str, Seats] = {}
        self.contenders: list[Contender] = []
        self.capacity: float | None = None

    def enter(self, contenders: list[Contender], stack: ExitStack) -> None:
        """Start the contenders. A peer that does not start is left out; others end the run."""
        for contender in contenders:
            try:
                self.seats[contender.name] = contender.enter(self.stage, stack)
            except StageError as error:
                if not isinstance(contender, Another):
                    raise
                self.skip(f"{contender.name}: {error}")
            else:
                self.contenders.append(contender)
        self.results.contenders = [contender.name for contender in self.contenders]

    def skip(self, line: str) -> None:
        """Remember, and say at once, what is not measured."""
        print(f"skipped: {line}", file=sys.stderr, flush=True)
        self.results.skipped.append(line)

    def run(self, scenario: Scenario) -> None:
        """All rounds of a scenario, the contenders in turn: a drift of the machine meets all."""
        scenario = self._fit(scenario)
        players = [one for one in self.contenders if one.plays(scenario)]
        if scenario.kind == RATE and self.capacity is None:
            self.capacity = self._capacity()
        if not players or (scenario.kind == RATE and not self.capacity):
            self.skip(f"{scenario.title}: needs the router among the contenders")
            return
        if scenario.kind == IDLE:
            self._run_idle(scenario, players)
        else:
            self._run_rounds(scenario, players)

    def _run_rounds(self, scenario: Scenario, players: list[Contender]) -> None:
        for number in range(1, self.options.rounds_of(scenario) + 1):
            for player in list(players):
                try:
                    self.results.rounds.append(self._round(scenario, player, number))
                except StageError as error:
                    if not isinstance(player, Another):
                        raise
                    self.skip(f"{player.name} from here on: {error}")
                    self.contenders.remove(player)
                    players.remove(player)

    def _round(self, scenario: Scenario, player: Contender, number: int) -> Round:
        seat = self.seats[player.name].of(scenario)
        messages, asked = requests(scenario, seat.sandbox_port), scenario.share * (self.capacity or 0.0)
        job = Job(scenario, seat, messages, self.stage.folder / "messages", asked)
        seconds = self.options.seconds_of(scenario)
        early = self.driver.warm_up(job, min(scenario.warm_up[number > 1], 2 * seconds))
        figures = self.driver.measure(job, seconds)
        if seat.child is not None:
            seat.child.check()
        figures["errors"] = _add(early, figures["errors"])
        return Round(scenario.name, player.name, number, **figures)

    def _capacity(self) -> float | None:
        """The router's median with one sandbox, measured now where that scenario was not chosen."""
        one = next(scenario for scenario in SCENARIOS if scenario.name == "one")
        done = self.results.of(one.name, ROUTER)
        if not done and ROUTER in self.seats:
            router = next(contender for contender in self.contenders if isinstance(contender, Router))
            short = replace(one, seconds=1.0)
            done = [self._round(short, router, 1)]
        return statistics.median(round_.requests / round_.seconds for round_ in done) if done else None

    def _fit(self, scenario: Scenario) -> Scenario:
        """Make a scenario smaller where the open-file limit asks for it, and say so."""
        limit, most = f"the limit is {self.stage.files:,} open files", (self.stage.files - SPARE_FILES) // 2
        if scenario.kind == IDLE and self.options.pairs:
            scenario = replace(scenario, connections=self.options.pairs)
        if (wanted := scenario.connections or 0) > most:
            self.skip(f"{scenario.title}: {wanted - most:,} of {wanted:,}, {limit}")
            scenario = replace(scenario, connections=most)
        if scenario.kind == CLOSED and scenario.sandboxes > self.stage.files - SPARE_FILES:
            most = self.stage.files - SPARE_FILES
            self.skip(f"{scenario.title}: only {most:,}, {limit}")
            scenario = replace(scenario, sandboxes=most)
        return scenario

    def _run_idle(self, scenario: Scenario, players: list[Contender]) -> None:
        """Fresh processes: memory that an earlier scenario left free would hide what pairs take."""
        for number in range(1, self.options.rounds_of(scenario) + 1):
            for player in players:
                with ExitStack() as stack:
                    try:
                        seat = player.enter(self.stage, stack, idle=True).of(scenario)
                        self.results.rounds.append(_hold(scenario, player.name, seat, number))
                    except StageError as error:
                        if not isinstance(player, Another):
                            raise
                        self.skip(f"{player.name}, {scenario.title}: {error}")


def _hold(scenario: Scenario, name: str, seat: Seat, number: int) -> Round:
    child, pairs = seat.child, scenario.connections or 0
    if child is None:
        raise StageError(f"{name}: nothing is known of its process")
    messages = requests(replace(scenario, sandboxes=pairs + WARM), seat.sandbox_port)
    early = load.drive(load.Plan(seat.address, messages[pairs:], WARM, 0.3, scenario.answer))
    files = _settled(child)
    before, started = child.resident_bytes(), time.perf_counter()
    with idle.hold(idle.Plan(seat.address, messages[:pairs], pairs)) as held:
        child.check()
        count, lost = max(1, held.pairs), held.errors
        memory, more = child.resident_bytes(), child.open_files() - files
    nothing: dict[str, Any] = dict.fromkeys(("bytes", "p50_us", "p99_us", "p999_us"), 0)
    return Round(
        scenario.name,
        name,
        number,
        requests=count,
        seconds=round(time.perf_counter() - started, 6),
        errors=_add({"connect": lost}, cast("dict[str, int]", early["errors"])),
        rss_bytes=memory,
        open_files=files + more,
        pairs=count,
        kb_per_pair=(memory - before) / 1024 / count,
        files_per_pair=more / count,
        **nothing,
    )


def _settled(child: Child) -> int:
    """Count the open files once those of the warm-up are closed: the same number several times in a row."""
    counts = [child.open_files()]
    end = time.monotonic() + SETTLE_TIMEOUT
    while len(set(counts[-STEADY:])) > 1 or len(counts) < STEADY:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
        counts.append(child.open_files())
    return counts[-1]


def _add(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {kind: count + first.get(kind, 0) for kind, count in second.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 when a round of relay or router failed, or with ``--check`` a requirement."""
    options = parse(arguments)
    # SIGTERM unwinds like Ctrl-C does, so that the children end either way.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    raise_file_limit()
    results = Results(options.scenarios, [], when=time.strftime("%Y-%m-%d %H:%M"))
    try:
        _measure(options, results)
    except (StageError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    folder = options.out or HERE / "out" / time.strftime("%Y%m%d-%H%M%S")
    print(report.write(results, folder, plots=options.plots))
    if any(one.failed for one in results.rounds if one.contender in {RELAY, ROUTER}):
        return 1
    return 1 if options.check and any(one.state == "MISSED" for one in results.verdicts()) else 0


def _measure(options: Options, results: Results) -> None:
    started = time.perf_counter()
    cores = Cores.choose()
    compared = {need.against for scenario in results.scenarios for need in scenario.needs}
    contenders, missing = choose(options.only, options.peers, options.router, fan_out=FAN_OUT in compared)
    programs = {"wrk": shutil.which("wrk"), "nginx": nginx.find()}
    programs |= {one.name: one.program for one in contenders if isinstance(one, Another)}
    results.machine = machine.describe(programs)
    if cores.other is not None:
        os.sched_setaffinity(0, {cores.other})
    with ExitStack() as stack:
        stage = Stage(stack, cores, options.sandbox, options.dns_port)
        benchmark = Benchmark(options, stage, cores, results)
        for line in missing:
            benchmark.skip(line)
        benchmark.enter(contenders, stack)
        for scenario in options.scenarios:
            print(f"measuring: {scenario.title}", file=sys.stderr, flush=True)
            benchmark.run(scenario)
        results.settings = _settings(benchmark, cores, started)
    results.skipped += left_out(options.peers)


def _settings(benchmark: Benchmark, cores: Cores, started: float) -> dict[str, object]:
    pinned = (
        "NOT pinned: one core for everything, ratios say little"
        if cores.tested is None
        else f"contenders on core {cores.tested}, load, sandboxes and DNS on core {cores.other}"
    )
    used = {
        "wrk" if benchmark.driver.uses_wrk(one, benchmark.options.seconds_of(one)) else "own"
        for one in benchmark.results.scenarios
    }
    router = benchmark.seats.get(ROUTER)
    lines = router.small.child.output.lines if router and router.small.child else None
    return {
        "pinned": pinned,
        "connections": benchmark.options.connections,
        "load": " and ".join(sorted(used, reverse=True)),
        "sandbox": benchmark.stage.sandbox,
        "capacity": benchmark.capacity,
        "log_lines": lines,
        "seconds": round(time.perf_counter() - started),
    }

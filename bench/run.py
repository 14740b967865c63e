"""The runner behind ``python -m bench`` and ``make bench``.

Starts DNS, sandboxes, relay and router on loopback, drives relay and router in turn, and prints one table.
The router runs as shipped, access log on; its log goes through a pipe that is drained and counted here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench import load, machine, nginx
from bench.processes import StageError, core_busy_seconds
from bench.report import Round, Row, remarks, table
from bench.scenarios import SCENARIOS, Scenario, pack, requests
from bench.serving import raise_file_limit
from bench.stage import CONTENDERS, Cores, Seat, Stage

HERE: Final = Path(__file__).parent
# The first warm-up in a scenario fills caches and dials 1,000 sandboxes; later ones only dial again.
FIRST_WARM_UP: Final = 0.7
WARM_UP: Final = 0.25
GRACE: Final = 15.0
MEGABYTE: Final = 1024 * 1024


class Benchmark:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, stage: Stage, cores: Cores) -> None:
        """Measure on a stage that is up."""
        self.options = options
        self.stage = stage
        self.cores = cores
        self.wrk = shutil.which("wrk") if options.generator != "own" else None
        self.rounds: list[Round] = []

    def run(self, scenario: Scenario) -> None:
        """All rounds of a scenario, the contenders in turn: a drift of the machine meets both."""
        messages = requests(scenario, self.stage.sandbox_port(scenario))
        path = self.stage.folder / scenario.name
        path.write_bytes(pack(messages))
        for number in range(1, self.options.rounds + 1):
            for contender in self.options.only or CONTENDERS:
                seat = self.stage.seat(contender, scenario)
                warm_up = self._own(seat, scenario, messages, FIRST_WARM_UP if number == 1 else WARM_UP)
                figures = self._measure(seat, scenario, messages, path)
                figures["errors"] = _add(warm_up["errors"], figures["errors"])
                self.rounds.append(Round(scenario.name, contender, number, **figures))
                self.stage.check()

    def _measure(self, seat: Seat, scenario: Scenario, messages: list[bytes], path: Path) -> dict[str, Any]:
        busy, cpu, clock = self._core_busy(), seat.child.cpu_seconds(), time.perf_counter()
        if self._uses_wrk(scenario):
            result = self._wrk(seat, path)
        else:
            result = self._own(seat, scenario, messages, self.options.seconds)
        cpu, wall = seat.child.cpu_seconds() - cpu, time.perf_counter() - clock
        others = None if busy is None else max(0.0, (self._core_busy() or 0.0) - busy - cpu) / wall
        return result | {
            "cpu_us_per_request": cpu * 1e6 / max(1, result["requests"]),
            "core_share": min(1.0, cpu / result["seconds"]),
            "others_share": others,
            "rss_bytes": seat.child.resident_bytes(),
            "open_files": seat.child.open_files(),
        }

    def _core_busy(self) -> float | None:
        return None if self.cores.tested is None else core_busy_seconds(self.cores.tested)

    def _uses_wrk(self, scenario: Scenario) -> bool:
        # wrk knows whole seconds only, and is itself the bottleneck of bulk (see bench/load.py).
        return (
            self.wrk is not None and not scenario.bulk and self.options.seconds == int(self.options.seconds)
        )

    def _wrk(self, seat: Seat, path: Path) -> dict[str, Any]:
        host, port = seat.address
        seconds = int(self.options.seconds)
        command: list[str | Path] = [
            str(self.wrk),
            "-t1",
            f"-c{self.options.connections}",
            f"-d{seconds}s",
            "-s",
            HERE / "load.lua",
        ]
        command += [f"http://{host}:{port}/", "--", path]
        limit = seconds + GRACE
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=limit, check=True)  # noqa: S603
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def _own(self, seat: Seat, scenario: Scenario, messages: list[bytes], seconds: float) -> dict[str, Any]:
        body = scenario.download or None
        return load.drive(load.Plan(seat.address, messages, self.options.connections, seconds, body))

    def generators(self) -> str:
        """Who made the load, in words."""
        used = {
            f"{'wrk' if self._uses_wrk(scenario) else 'own'} for {'bulk' if scenario.bulk else 'requests'}"
            for scenario in self.options.scenarios
        }
        return ", ".join(sorted(used, reverse=True))


def _add(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {kind: count + first.get(kind, 0) for kind, count in second.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 when a round failed, or with ``--check`` when a ratio is missed."""
    options = _parse(arguments)
    # SIGTERM unwinds like Ctrl-C does, so that the children end either way.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    raise_file_limit()
    cores = Cores.choose()
    facts = machine.describe({"wrk": shutil.which("wrk"), "nginx": nginx.find()})
    if cores.other is not None:
        os.sched_setaffinity(0, {cores.other})
    try:
        with ExitStack() as stack:
            stage = Stage(stack, cores, options.sandbox, options.only or CONTENDERS)
            benchmark = Benchmark(options, stage, cores)
            for scenario in options.scenarios:
                print(f"measuring: {scenario.title}", file=sys.stderr, flush=True)
                benchmark.run(scenario)
            log_lines = stage.log_lines()
    except StageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return _tell(options, benchmark, facts, log_lines)


def _tell(
    options: argparse.Namespace, benchmark: Benchmark, facts: dict[str, object], log_lines: int | None
) -> int:
    rows = [Row.of(scenario, benchmark.rounds) for scenario in options.scenarios]
    setting = _setting(options, benchmark, facts)
    print(f"\n{setting}\n\n{table(rows)}\n")
    for line in _footprint(rows):
        print(line)
    if log_lines is not None:
        print(f"router access log: on, through a pipe, {log_lines:,} lines read and dropped")
    for line in remarks(rows):
        print(f"note: {line}")
    print(f"raw numbers: {_save(options, benchmark, facts, setting)}")
    if any(one.failed for one in benchmark.rounds):
        return 1
    return 1 if options.check and any(row.holds is False for row in rows) else 0


def _setting(options: argparse.Namespace, benchmark: Benchmark, facts: dict[str, object]) -> str:
    cores = benchmark.cores
    pinned = (
        "NOT pinned: one core for everything, ratios say little"
        if cores.tested is None
        else f"relay/router on core {cores.tested}, load, sandbox and DNS on core {cores.other}"
    )
    return (
        f"{facts['cpu']}, kernel {facts['kernel']}, Python {facts['python']}; {pinned}\n"
        f"{options.rounds} x {options.seconds:g} s per contender, {options.connections} connections, "
        f"medians; load: {benchmark.generators()}; sandbox: {benchmark.stage.sandbox}"
    )


def _footprint(rows: list[Row]) -> list[str]:
    return [
        f"router after {row.scenario.title}: {row.router[-1].rss_bytes / MEGABYTE:.1f} MB RSS, "
        f"{row.router[-1].open_files:,} open files"
        for row in rows
        if row.scenario.sandboxes > 1 and row.router
    ]


def _save(options: argparse.Namespace, benchmark: Benchmark, facts: dict[str, object], setting: str) -> Path:
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / time.strftime("%Y%m%d-%H%M%S.json")
    rounds = [asdict(one) for one in benchmark.rounds]
    path.write_text(json.dumps({"machine": facts, "setting": setting, "rounds": rounds}, indent=1) + "\n")
    return path


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [scenario.name for scenario in SCENARIOS]
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=3.0, help="length of a round; not whole: without wrk")
    add("--connections", type=int, default=64, help="client connections")
    add("--scenario", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--only", nargs="+", choices=CONTENDERS, help="leave the other contenders out")
    add(
        "--generator", choices=("wrk", "own"), default="wrk", help="wrk falls back to own where it is missing"
    )
    add("--sandbox", choices=("nginx", "own"), default="nginx", help="nginx falls back to own likewise")
    add("--check", action="store_true", help="exit with 1 when a required ratio is missed")
    add("--out", type=Path, default=HERE / "out", help="folder of the raw JSON")
    options = parser.parse_args(arguments)
    options.scenarios = [scenario for scenario in SCENARIOS if scenario.name in options.scenario]
    return options

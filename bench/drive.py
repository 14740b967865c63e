"""One round: the right load generator for a scenario, and what the contender used meanwhile."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bench import echoes, load, rate, streams
from bench.processes import core_busy_seconds
from bench.scenarios import CLOSED, ECHOES, EVENTS, RATE, Scenario, pack

if TYPE_CHECKING:
    from bench.contenders import Seat
    from bench.processes import Child

SCRIPT: Final = Path(__file__).parent / "load.lua"
GRACE: Final = 15.0
# Tunnels and listeners of a warm-up: enough to have run all the code.
FEW: Final = 32
# Each gets further than the one before: what is dialled already goes fast.
PASSES: Final = 8
# Once to dial, once to be remembered (docs/decisions/0004), once to be found again.
TIMES: Final = 3
SAMPLE_SECONDS: Final = 0.04


@dataclass(frozen=True)
class Job:
    """What to send where."""

    scenario: Scenario
    seat: Seat
    messages: list[bytes]
    path: Path
    """The file for wrk, which is written when wrk is used."""
    rate: float = 0.0


@dataclass(frozen=True)
class Driver:
    """Drives one seat after the other."""

    connections: int
    wrk: str | None
    tested_core: int | None

    def uses_wrk(self, scenario: Scenario, seconds: float) -> bool:
        """Whether wrk makes the load: it knows whole seconds only, and is the bottleneck of bulk.

        New connections are left to our own too: wrk starts its clock when a connection is there.
        """
        plain = scenario.kind == CLOSED and not (scenario.bulk or scenario.close)
        return self.wrk is not None and plain and seconds == int(seconds)

    def warm_up(self, job: Job, seconds: float) -> dict[str, int]:
        """Fill caches, dial, and check every answer's length; return the errors.

        A closed loop goes on until one pass has sent every message, and all of them ``TIMES``: a round that
        still dials, or meets heads for the second time only, measures just that.
        """
        target, messages = job.seat.address, job.messages
        if job.scenario.kind == EVENTS:
            return _errors(streams.drive(streams.Plan(target, messages, FEW, seconds)))
        if job.scenario.kind == ECHOES:
            return _errors(echoes.drive(echoes.Plan(target, messages, FEW, seconds=seconds)))
        errors: Counter[str] = Counter()
        sent = 0
        for _ in range(PASSES):
            result = dict(load.drive(self._closed_loop(job, seconds)))
            errors.update(_errors(result))
            requests = cast(int, result["requests"])
            sent += requests
            if requests >= len(messages) and sent >= TIMES * len(messages):
                break
        return errors

    def measure(self, job: Job, seconds: float) -> dict[str, Any]:
        """Drive for a while; return the figures of a round."""
        with Use(job.seat.child, self.tested_core) as use:
            if self.uses_wrk(job.scenario, seconds):
                result = self._wrk(job, seconds)
            else:
                result = self._own(job, seconds)
        # Each event is one of the requests, see bench/streams.py.
        result.pop("events", None)
        if job.scenario.kind == RATE:
            result["rate_asked"] = job.rate
        return result | use.figures(result["seconds"], result["requests"])

    def _own(self, job: Job, seconds: float) -> dict[str, Any]:
        target, messages = job.seat.address, job.messages
        count = job.scenario.connections or self.connections
        if job.scenario.kind == RATE:
            return dict(rate.drive(rate.Plan(target, messages, job.rate, count, seconds)))
        if job.scenario.kind == EVENTS:
            return dict(streams.drive(streams.Plan(target, messages, count, seconds)))
        if job.scenario.kind == ECHOES:
            return dict(echoes.drive(echoes.Plan(target, messages, count, seconds=seconds)))
        return dict(load.drive(self._closed_loop(job, seconds)))

    def _closed_loop(self, job: Job, seconds: float) -> load.Plan:
        scenario = job.scenario
        count = scenario.connections or self.connections
        return load.Plan(
            job.seat.address, job.messages, count, seconds, scenario.answer, fresh=scenario.close
        )

    def _wrk(self, job: Job, seconds: float) -> dict[str, Any]:
        job.path.write_bytes(pack(job.messages))
        host, port = job.seat.address
        command = [str(self.wrk), "-t1", f"-c{self.connections}", f"-d{int(seconds)}s"]
        command += ["-s", str(SCRIPT), f"http://{host}:{port}/", "--", str(job.path)]
        limit = seconds + GRACE
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=limit, check=True)  # noqa: S603
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


def _errors(result: dict[str, Any]) -> dict[str, int]:
    return dict(result["errors"])


class Use:
    """What a contender and its core used while a block ran.

    A load generator that opens 1,000 connections first reports the time after that, so the counters are read
    again and again: the use is that of the last seconds, as many as the generator says.
    """

    def __init__(self, child: Child | None, core: int | None) -> None:
        self._child = child
        self._core = core
        self._samples: list[tuple[float, float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Use:
        """Begin."""
        if self._child is not None:
            self._sample()
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._done.set()
        if self._child is not None:
            self._thread.join()
            self._sample()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        if self._child is not None:
            busy = 0.0 if self._core is None else core_busy_seconds(self._core)
            self._samples.append((time.perf_counter(), self._child.cpu_seconds(), busy))

    def figures(self, seconds: float, requests: int) -> dict[str, Any]:
        """The figures of a round that come from the process itself."""
        if self._child is None:
            return {}
        ended, cpu_then, busy_then = self._samples[-1]
        first = [sample for sample in self._samples if sample[0] <= ended - seconds]
        started, cpu, busy = first[-1] if first else self._samples[0]
        cpu, busy, wall = cpu_then - cpu, busy_then - busy, ended - started
        others = None if self._core is None else max(0.0, busy - cpu) / wall
        return {
            "cpu_us_per_request": cpu * 1e6 / max(1, requests) * min(1.0, seconds / wall),
            "core_share": min(1.0, cpu / wall),
            "others_share": others,
            "rss_bytes": self._child.resident_bytes(),
            "open_files": self._child.open_files(),
        }

"""What a second worker is worth: the router with 1 and with 2 worker processes, the load counted out.

    python -m bench.workers

Load generator and sandboxes take as much of the machine as the router does. With fewer cores than all of them
need, the rate shows who got how much of the cores, and not what the workers can do. So two things are told:

- ``measured``: the ratio of the rates as they were, which is right where cores are left (--load-processes);
- ``counted out``: the ratio of what the workers would do with a core each. A worker's core is worth one over
  the CPU time that a request costs it, and the busiest worker is full first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import TICK, accepts, free_port, tree
from bench.scenarios import SCENARIOS, pack, requests
from bench.stage import Cores, Stage

SCENARIO: Final = "s100"
CONNECTIONS: Final = 128


@dataclass(frozen=True)
class Measure:
    """One run with some number of workers."""

    workers: int
    rate: float
    """Requests per second, by the load generators' count."""
    cpu: tuple[float, ...]
    """CPU seconds of each worker during the run."""
    parent_cpu: float
    seconds: float

    @property
    def cost(self) -> float:
        """CPU microseconds of the workers for one request."""
        return sum(self.cpu) / (self.rate * self.seconds) * 1e6

    @property
    def busiest(self) -> float:
        """The share of the work that the busiest worker had."""
        return max(self.cpu) / sum(self.cpu)

    @property
    def capacity(self) -> float:
        """Requests per second, were there a core for each worker: when the busiest one is full."""
        return 1e6 / self.cost / self.busiest

    def __str__(self) -> str:
        return (
            f"{self.workers} worker{'s' * (self.workers > 1)}: {self.rate:,.0f} req/s, "
            f"{self.cost:.1f} us of CPU a request, busiest worker {self.busiest:.0%}, "
            f"parent {self.parent_cpu / self.seconds:.1%} of a core, capacity {self.capacity:,.0f} req/s"
        )


def measure(stage: Stage, folder: Path, workers: int, *, seconds: float, loads: int) -> Measure:
    """Run the router with some workers, and load it."""
    with ExitStack() as stack:
        port = free_port()
        router = stage.start(
            stack,
            f"router-{workers}",
            [sys.executable, "-m", "fastrouter", "serve", "--host", "127.0.0.1", "--port", str(port)],
            environment={
                "WORKERS": str(workers),
                "DNS_SERVERS": "{}:{}".format(*stage.dns),
                "ALLOW_UNAUTHENTICATED_ROUTER": "true",
                "HEALTH_PORT": "off",
                "METRICS_PORT": "off",
            },
        )
        router.wait_until(lambda: accepts(("127.0.0.1", port)))
        file = folder / f"requests-{workers}"
        (scenario,) = (each for each in SCENARIOS if each.name == SCENARIO)
        file.write_bytes(pack(requests(scenario, stage.own_port)))
        _load(port, file, 0.5, loads)  # every head is known, and every sandbox dialled
        pids = tree(router.popen.pid)
        before = [cpu_seconds(pid) for pid in pids]
        done = _load(port, file, seconds, loads)
        used = [cpu_seconds(pid) - first for pid, first in zip(pids, before, strict=True)]
    parent, *others = used
    return Measure(workers, done / seconds, tuple(others or [parent]), parent if others else 0.0, seconds)


def cpu_seconds(pid: int) -> float:
    """User and system time of one process so far, without those that it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) * TICK


def _load(port: int, file: Path, seconds: float, loads: int) -> int:
    """Let the load generators run, and return how many requests were answered; none may fail."""
    command = [sys.executable, "-m", "bench.load", "--target", f"127.0.0.1:{port}", "--requests", str(file)]
    command += ["--connections", str(CONNECTIONS // loads), "--seconds", str(seconds)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own module
        for _ in range(loads)
    ]
    results = [json.loads(process.communicate()[0]) for process in running]
    failed = {kind: count for result in results for kind, count in result["errors"].items() if count}
    if failed:
        raise RuntimeError(f"requests failed: {failed}")
    return sum(result["requests"] for result in results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, and print what came of it."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="how many are compared with one")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--load-processes", type=int, default=1)
    chosen = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores for router, sandboxes and {chosen.load_processes} load generator(s)")
    best: dict[int, Measure] = {}
    with ExitStack() as stack:
        stage = Stage(stack, Cores(None, None), "own")
        for _ in range(chosen.rounds):
            for count in (1, chosen.workers):
                made = measure(
                    stage, stage.folder, count, seconds=chosen.seconds, loads=chosen.load_processes
                )
                print(made, flush=True)
                best[count] = max(made, best.get(count, made), key=lambda each: each.rate)
    one, many = best[1], best[chosen.workers]
    print(f"measured: {many.rate / one.rate:.2f} times one worker")
    print(f"counted out: {many.capacity / one.capacity:.2f} times one worker, with a core for each")
    return 0


if __name__ == "__main__":
    sys.exit(main())

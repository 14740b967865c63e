"""The stage: every process of the benchmark, started, pinned, and found again by the scenarios."""

from __future__ import annotations

import http.client
import os
import resource
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import nginx
from bench.processes import Child, accepts, free_port

if TYPE_CHECKING:
    from collections.abc import Collection

    from bench.scenarios import Scenario
    from bench.serving import Address

RELAY: Final = "relay"
ROUTER: Final = "router"
CONTENDERS: Final = (RELAY, ROUTER)
HEALTHY: Final = 200


@dataclass(frozen=True)
class Cores:
    """Which core runs what; None where there is only one, and nothing can be pinned apart."""

    tested: int | None
    other: int | None

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(tested=cores[1], other=cores[0]) if len(cores) > 1 else cls(None, None)


@dataclass(frozen=True)
class Seat:
    """A contender as one scenario meets it: what to measure, and where to send."""

    child: Child
    address: Address


class Stage:
    """The running processes. A contender that is added here is measured like the others."""

    def __init__(self, stack: ExitStack, cores: Cores, sandbox: str, contenders: Collection[str]) -> None:
        """Start the sandboxes and the contenders; `stack` ends them."""
        self._stack = stack
        self._cores = cores
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastrouter-bench-")))
        self._bulk_port = self._own_sandbox()
        program = nginx.find() if sandbox == "nginx" else None
        self._small_port = self._nginx(program) if program else self._bulk_port
        self.sandbox = "nginx for /execute, own for bulk" if program else "own"
        self._seats: dict[tuple[str, int], Seat] = {}
        ports = {self._bulk_port, self._small_port}
        if RELAY in contenders:
            # A relay knows one upstream address only, so there is one for each sandbox process.
            self._seats |= {(RELAY, port): self._relay(port) for port in ports}
        if ROUTER in contenders:
            self._seats |= dict.fromkeys(((ROUTER, port) for port in ports), self._router())

    def sandbox_port(self, scenario: Scenario) -> int:
        """The port of the sandboxes that a scenario uses."""
        return self._bulk_port if scenario.bulk else self._small_port

    def seat(self, contender: str, scenario: Scenario) -> Seat:
        """Where a contender is for a scenario."""
        return self._seats[contender, self.sandbox_port(scenario)]

    def log_lines(self) -> int | None:
        """How many lines the router has logged, None without a router."""
        lines = [seat.child.output.lines for (name, _), seat in self._seats.items() if name == ROUTER]
        return max(lines, default=None)

    def check(self) -> None:
        """Fail when a contender has ended."""
        for seat in self._seats.values():
            seat.child.check()

    def _start(self, name: str, command: list[str], core: int | None, **environment: str) -> Child:
        child = Child(name, command, core=core, environment={**os.environ, **environment})
        return self._stack.enter_context(child)

    def _own_sandbox(self) -> int:
        command = [sys.executable, "-m", "bench.sandbox", "--listen", "0.0.0.0:0"]
        return self._start("sandbox", command, self._cores.other).listening_on()[1]

    def _nginx(self, program: str) -> int:
        port = free_port()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        child = self._start("nginx", nginx.command(program, self.folder, port, files), self._cores.other)
        child.wait_until(lambda: accepts(("127.0.0.1", port)))
        return port

    def _relay(self, port: int) -> Seat:
        upstream = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "bench.relay", "--listen", "127.0.0.1:0", "--upstream", upstream]
        child = self._start(RELAY, command, self._cores.tested)
        return Seat(child, child.listening_on())

    def _router(self) -> Seat:
        command = [sys.executable, "-m", "bench.dns", "--listen", "127.0.0.1:0"]
        host, dns_port = self._start("dns", command, self._cores.other).listening_on()
        port = free_port()
        command = [sys.executable, "-m", "fastrouter", "serve", "--host", "127.0.0.1", "--port", str(port)]
        servers = f"{host}:{dns_port}"
        child = self._start(ROUTER, command, self._cores.tested, DNS_SERVERS=servers, ACCESS_LOG="true")
        child.wait_until(lambda: _healthy(port))
        return Seat(child, ("127.0.0.1", port))


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HEALTHY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

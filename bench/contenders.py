"""Who is measured: relay, router, peers, and any router by URL. Each knows how to start itself."""

from __future__ import annotations

import http.client
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from bench.needs import FAN_OUT, RELAY, ROUTER
from bench.peers.catalog import PEERS, Peer, Place
from bench.processes import Child, StageError, accepts, free_port
from bench.scenarios import ECHOES, EVENTS, IDLE

if TYPE_CHECKING:
    from bench.scenarios import Scenario
    from bench.serving import Address
    from bench.stage import Stage

HEALTHY: Final = 200
FASTAPI: Final = "fastapi"


@dataclass(frozen=True)
class Seat:
    """Where a contender is in a scenario: what to measure (None for one by URL), and where to send."""

    child: Child | None
    address: Address
    sandbox_port: int


@dataclass(frozen=True)
class Seats:
    """The two seats of a contender: with the sandbox that answers /execute, and with that for the rest."""

    small: Seat
    other: Seat

    def of(self, scenario: Scenario) -> Seat:
        """The one for a scenario."""
        return self.small if scenario.small else self.other


class Contender(Protocol):
    """Anything that is measured."""

    @property
    def name(self) -> str:
        """The name, as in tables and files."""

    def plays(self, scenario: Scenario) -> bool:
        """Whether the scenario makes sense for it."""

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start its processes and sandboxes, ended by `stack`; with `idle` to keep idle connections."""


@dataclass(frozen=True)
class Relay:
    """The raw relay. It knows one upstream address only, so there is one for each sandbox process."""

    name: str = RELAY

    def plays(self, scenario: Scenario) -> bool:
        """Everything but idle pairs: it has no pairs."""
        return scenario.kind != IDLE

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start the relays."""
        small = stage.small_sandbox(stack)
        ports = (small,) if small == stage.own_port else (small, stage.own_port)
        seats = [self._start(stage, stack, port) for port in ports]
        return Seats(seats[0], seats[-1])

    def _start(self, stage: Stage, stack: ExitStack, port: int) -> Seat:
        command = [sys.executable, "-m", "bench.relay", "--listen", "127.0.0.1:0"]
        child = stage.start(stack, RELAY, [*command, "--upstream", f"127.0.0.1:{port}"])
        return Seat(child, child.listening_on(), port)


@dataclass(frozen=True)
class FanOutSeats(Seats):
    """The seats of the fan-out relay: one for each number of sandboxes."""

    by_sandboxes: dict[int, Seat]

    def of(self, scenario: Scenario) -> Seat:
        """The one for a scenario."""
        return self.by_sandboxes[scenario.sandboxes]


@dataclass(frozen=True)
class FanOut:
    """The relay with as many upstream connections as there are sandboxes: what fan-out costs any router."""

    name: str = FAN_OUT
    sizes: tuple[int, ...] = (1, 10_000)

    def plays(self, scenario: Scenario) -> bool:
        """The first and the last row of those that differ in the number of sandboxes only."""
        return scenario.plain and scenario.sandboxes in self.sizes

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start a relay for each number of sandboxes."""
        port = stage.small_sandbox(stack)
        seats = {size: self._start(stage, stack, port, size) for size in self.sizes}
        return FanOutSeats(seats[1], seats[1], seats)

    def _start(self, stage: Stage, stack: ExitStack, port: int, sandboxes: int) -> Seat:
        command = [sys.executable, "-m", "bench.fanout", "--listen", "127.0.0.1:0", "--upstream", str(port)]
        child = stage.start(stack, FAN_OUT, [*command, "--sandboxes", str(sandboxes)])
        return Seat(child, child.listening_on(), port)


@dataclass(frozen=True)
class Router:
    """``fastrouter serve`` as shipped, but for what a scenario cannot do without."""

    name: str = ROUTER

    def plays(self, scenario: Scenario) -> bool:
        """Everything."""
        return True

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start the router."""
        port = free_port()
        command = [sys.executable, "-m", "fastrouter", "serve", "--host", "127.0.0.1", "--port", str(port)]
        environment = {
            # Beside a router that runs already, a measurement takes no port from it.
            "HEALTH_PORT": "0",
            "METRICS_PORT": "0",
            "DNS_SERVERS": "{}:{}".format(*stage.dns),
            "ACCESS_LOG": "true",
            # All tunnels of the benchmark come from one address, which may have 64 as shipped.
            "WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT": "0",
        }
        if idle:
            environment["KEEPALIVE_EXPIRY_SECONDS"] = "3600"
        child = stage.start(stack, ROUTER, command, environment=environment)
        child.wait_until(lambda: _healthy(port))
        return _seats(stage, stack, child, ("127.0.0.1", port))


@dataclass(frozen=True)
class Another:
    """A peer of the catalog that is installed here."""

    peer: Peer
    program: str

    @property
    def name(self) -> str:
        """The peer's name."""
        return self.peer.name

    def plays(self, scenario: Scenario) -> bool:
        """Everything it can; the FastAPI stack where it is asked for only, it is many times slower."""
        return (scenario.slow or self.name != FASTAPI) and (self.peer.upgrades or scenario.kind != ECHOES)

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start the peer."""
        port = free_port()
        place = Place(stage.new_folder(self.name), port, stage.dns, stage.files)
        child = stage.start(stack, self.name, self.peer.start_command(self.program, place), merged=True)
        try:
            child.wait_until(lambda: accepts(("127.0.0.1", port)))
        except StageError as error:
            said = child.output.start.decode(errors="replace").strip().splitlines()
            raise StageError(f"{error}: {said[-1] if said else 'it said nothing'}") from error
        return _seats(stage, stack, child, ("127.0.0.1", port))


@dataclass(frozen=True)
class ByAddress:
    """A router that runs already: nothing is known of its process."""

    name: str
    address: Address

    @classmethod
    def parse(cls, text: str) -> ByAddress:
        """Read ``NAME=URL``."""
        name, _, url = text.partition("=")
        parts = urlsplit(url)
        if not name.isidentifier() or parts.scheme != "http" or not parts.hostname:
            msg = f"not NAME=http://HOST:PORT: {text!r}"
            raise ValueError(msg)
        return cls(name, (socket.gethostbyname(parts.hostname), parts.port or 80))

    def plays(self, scenario: Scenario) -> bool:
        """All that needs no look into its process."""
        return scenario.kind not in {IDLE, EVENTS}

    def enter(self, stage: Stage, stack: ExitStack, *, idle: bool = False) -> Seats:
        """Start its sandbox; it must answer."""
        if not accepts(self.address):
            msg = f"{self.name} does not listen on {self.address[0]}:{self.address[1]}"
            raise StageError(msg)
        return _seats(stage, stack, None, self.address)


def _seats(stage: Stage, stack: ExitStack, child: Child | None, address: Address) -> Seats:
    return Seats(Seat(child, address, stage.small_sandbox(stack)), Seat(child, address, stage.own_port))


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == HEALTHY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def choose(
    only: list[str] | None, peers: list[str], routers: list[ByAddress], *, fan_out: bool = False
) -> tuple[list[Contender], list[str]]:
    """The contenders of a run in the order in which they are shown, and a line for each that is missing.

    The fan-out relay needs a while to dial 10,000 times, and is there where it is compared with (`fan_out`).
    """
    chosen: list[Contender] = [one for one in (Relay(), Router()) if only is None or one.name in only]
    if fan_out and only is None:
        chosen.insert(1, FanOut())
    missing = []
    for peer in PEERS:
        if peer.name not in peers:
            continue
        program = peer.find()
        if program:
            chosen.append(Another(peer, program))
        else:
            missing.append(f"{peer.name} ({peer.hint})")
    return [*chosen, *routers], missing


def left_out(peers: list[str]) -> list[str]:
    """A line for the peers that were not asked for."""
    here = [peer.name for peer in PEERS if peer.name not in peers and peer.find()]
    absent = [f"{peer.name} ({peer.hint})" for peer in PEERS if peer.name not in peers and not peer.find()]
    lines = [f"peers that are installed, not asked for (make bench-peers): {', '.join(here)}"] if here else []
    return lines + ([f"peers that could be installed: {', '.join(absent)}"] if absent else [])

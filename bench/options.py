"""The command line of ``python -m bench``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import ByAddress
from bench.needs import RELAY, ROUTER
from bench.peers.catalog import PEERS
from bench.scenarios import SCENARIOS, Scenario


@dataclass
class Options(argparse.Namespace):
    """What was asked for; the defaults are here, argparse keeps what a namespace already has."""

    rounds: int | None = None
    seconds: float | None = None
    connections: int = 64
    scenario: list[str] = field(default_factory=lambda: [one.name for one in SCENARIOS])
    only: list[str] | None = None
    peers: list[str] = field(default_factory=list)
    router: list[ByAddress] = field(default_factory=list)
    generator: str = "wrk"
    sandbox: str = "nginx"
    dns_port: int = 0
    pairs: int | None = None
    plots: bool = True
    check: bool = False
    out: Path | None = None

    @property
    def scenarios(self) -> list[Scenario]:
        """The rows that were chosen, in the order of the table."""
        return [one for one in SCENARIOS if one.name in self.scenario]

    def rounds_of(self, scenario: Scenario) -> int:
        """How many rounds."""
        return self.rounds or scenario.rounds

    def seconds_of(self, scenario: Scenario) -> float:
        """How long a round is."""
        return self.seconds or scenario.seconds


def parse(arguments: list[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure the router against a raw relay, and against peers on request.",
    )
    names = [scenario.name for scenario in SCENARIOS]
    peers = [peer.name for peer in PEERS]
    add = parser.add_argument
    add("--rounds", type=int, help="per scenario and contender; by default 1 to 3, see bench/scenarios.py")
    add("--seconds", type=float, help="length of a round, by default 1 to 2; not whole: without wrk")
    add("--connections", type=int, help="client connections, where the scenario has no number")
    add("--scenario", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    add("--only", nargs="+", choices=(RELAY, ROUTER), help="leave the other one out")
    add(
        "--peers",
        nargs="+",
        choices=("all", *peers),
        metavar="NAME",
        help="all, " + ", ".join(peers),
    )
    add(
        "--router",
        action="append",
        type=ByAddress.parse,
        metavar="NAME=URL",
        help="another router that runs on this machine; let it ask the DNS server of --dns-port",
    )
    add("--dns-port", type=int, help="port of the benchmark's DNS on 127.0.0.1; by default any")
    add("--generator", choices=("wrk", "own"), help="wrk falls back to own where it is missing")
    add("--sandbox", choices=("nginx", "own"), help="nginx falls back to own likewise")
    add("--pairs", type=int, help="idle pairs of connections, 10,000 or what the open-file limit allows")
    add("--no-plots", dest="plots", action="store_false", help="write results.json and table.md only")
    add("--check", action="store_true", help="exit with 1 when a requirement is missed")
    add("--out", type=Path, help="folder of the results, by default bench/out/<date>-<time>")
    options = parser.parse_args(arguments, namespace=Options())
    if "all" in options.peers:
        options.peers = peers
    return options

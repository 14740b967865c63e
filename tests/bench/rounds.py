"""Rounds that nobody measured, for tests of what is made from rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.needs import RELAY, ROUTER
from bench.results import Results, Round
from bench.scenarios import IDLE, SCENARIOS, Scenario

RATES = {RELAY: 90_000, ROUTER: 60_000, "nginx": 30_000, "haproxy": 70_000, "caddy": 9_000, "mine": 45_000}


def scenario(name: str) -> Scenario:
    """The scenario of a name."""
    return next(one for one in SCENARIOS if one.name == name)


def one_round(name: str, contender: str, number: int, requests: int, **changes: Any) -> Round:
    """A round of a second in which all went well."""
    fields: dict[str, Any] = {
        "bytes": requests * 300,
        "seconds": 1.0,
        "p50_us": 500.0,
        "p99_us": 900.0,
        "p999_us": 1500.0,
        "errors": {"connect": 0, "status": 0},
        "cpu_us_per_request": 10.0,
        "core_share": 0.99,
        "others_share": 0.0,
        "rss_bytes": 60_000_000,
        "open_files": 64,
    }
    return Round(name, contender, number, requests, **(fields | changes))


def single(name: str, rates: Mapping[str, Sequence[int]]) -> Results:
    """Results of one scenario: the requests per second of every round."""
    rounds = [
        one_round(name, contender, number, rate)
        for contender, values in rates.items()
        for number, rate in enumerate(values, 1)
    ]
    return Results([scenario(name)], list(rates) or [ROUTER], rounds=rounds)


def made_up(names: Sequence[str], contenders: Sequence[str] = (RELAY, ROUTER)) -> Results:
    """Two rounds of every contender in each of the scenarios."""
    run = Results([scenario(name) for name in names], list(contenders), when="2026-11-24 12:00")
    for one in run.scenarios:
        for contender in contenders:
            rate = RATES[contender]
            more: dict[str, Any] = {"p99_us": 9e7 / rate, "cpu_us_per_request": 9e5 / rate}
            if one.kind == IDLE:
                more |= {"pairs": 9900, "kb_per_pair": 9.0, "files_per_pair": 2.0}
            run.rounds += [one_round(one.name, contender, number, rate, **more) for number in (1, 2)]
    return run

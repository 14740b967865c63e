"""The measurement of memory: states are reached, and each costs no more than its bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.memory import HELD, OBJECTS, STATES, cost, main

NAMES = {state.name: state for state in STATES}


def test_every_state_has_a_name_and_a_bound() -> None:
    assert len(NAMES) == len(STATES) > 10
    assert all(state.limit >= OBJECTS for state in STATES)


async def test_clients_that_do_not_read_cost_something_and_no_more_than_their_bound() -> None:
    state = replace(NAMES["a chunked answer, and a client that does not read"], count=16)
    assert HELD < await cost(state) <= state.limit


async def test_an_idle_tunnel_costs_no_more_than_its_bound() -> None:
    state = replace(NAMES["a tunnel, idle"], count=100)
    assert 1024 < await cost(state) <= state.limit


async def test_an_idle_client_by_tls_costs_no_more_than_its_bound() -> None:
    state = replace(NAMES["idle, by TLS"], count=100)
    assert 8192 < await cost(state) <= state.limit


async def test_what_costs_more_than_its_bound_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = replace(NAMES["idle"], count=200)
    monkeypatch.setattr("bench.memory.STATES", (state,))
    assert await main(1.0, []) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| idle | 200 | ")
    assert row.endswith(f" | {OBJECTS // 1024} |")
    monkeypatch.setattr("bench.memory.OBJECTS", 1)
    assert await main(1.0, ["idle"]) == 1

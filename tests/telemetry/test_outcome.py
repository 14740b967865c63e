"""The facts of one request."""

from __future__ import annotations

import pytest

from fastrouter.telemetry.outcome import Outcome


def test_an_outcome_begins_without_a_status_and_without_bytes() -> None:
    outcome = Outcome(1.5)
    assert {name: getattr(outcome, name) for name in Outcome.__slots__} == {
        "started": 1.5,
        "status": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "upstream": "",
        "reused": False,
        "dials": 0,
        "dial_seconds": 0.0,
        "reason": "",
        "is_upstreams": False,
        "first_byte": 0.0,
        "trace": None,
        "request_id": b"",
        "head_end": b"\r\n",
    }


def test_a_failure_tells_its_side() -> None:
    outcome = Outcome(0.0)
    outcome.fail("connect_refused", upstreams=True)
    assert (outcome.reason, outcome.is_upstreams) == ("connect_refused", True)


def test_an_outcome_holds_nothing_else() -> None:
    with pytest.raises(AttributeError):
        Outcome(0.0).other = 1  # type: ignore[attr-defined]

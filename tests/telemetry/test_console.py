"""Lines for people: the same facts in columns, and still one line each."""

from __future__ import annotations

import json

import pytest

from fastrouter.telemetry.console import access_line, log_line

LINE = {
    "time": "2026-11-24T14:30:01.123Z",
    "method": "POST",
    "path": "/execute",
    "sandbox_id": "box",
    "namespace": "team",
    "status": 200,
    "duration_ms": 12.345,
    "bytes_in": 3,
    "bytes_out": 5,
    "upstream": "127.0.0.1:8888",
    "connection": "reused",
    "error": None,
}
HOSTILE = "/a\n14:30:01.123 200 forged\r\x1b[2J\u2028"


def test_an_access_line_tells_its_facts_in_columns() -> None:
    assert access_line(json.dumps(LINE | {"request_id": "abc"})) == (
        "14:30:01.123 200      12.3 ms POST /execute box.team in=3 out=5 "
        "reused 127.0.0.1:8888 request_id=abc\n"
    )


def test_a_failure_tells_its_reason_and_what_was_never_known_is_a_dash() -> None:
    nothing = dict.fromkeys(("method", "path", "sandbox_id", "namespace", "upstream", "connection"))
    line = access_line(json.dumps(LINE | nothing | {"status": 400, "error": "bad_request"}))
    assert line == "14:30:01.123 400      12.3 ms - - - in=3 out=5 bad_request\n"


@pytest.mark.parametrize("text", [HOSTILE, "ä", "\u202e"])
def test_no_path_forges_a_line(text: str) -> None:
    line = access_line(json.dumps(LINE | {"path": text}))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.dumps(text) in line


def test_a_log_line_tells_its_members() -> None:
    told = {
        "time": LINE["time"],
        "level": "info",
        "message": "listening",
        "port": 80,
        "settings": {"a": None},
    }
    assert log_line(told) == '14:30:01.123 info    listening port=80 settings={"a": null}'


def test_a_traceback_stands_below_and_cannot_be_a_line() -> None:
    told = {
        "time": LINE["time"],
        "level": "error",
        "message": "internal error",
        "traceback": f"T:\n  x{HOSTILE}",
    }
    first, *below = log_line(told).split("\n")
    assert first == "14:30:01.123 error   internal error"
    assert below[0] == "    T:"
    assert all(line.startswith("    ") and line.isascii() and line.isprintable() for line in below)


def test_no_id_forges_a_member() -> None:
    line = access_line(json.dumps(LINE | {"request_id": "x error=upstream_closed trace_id=1"}))
    assert line.endswith(' request_id="x error=upstream_closed trace_id=1"\n')

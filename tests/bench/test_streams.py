"""The listeners of server-sent events."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench import clients, streams
from tests.bench.scripted import ANSWER, CHUNKED, Handler, answering, answering_once, refusing, scripted
from tests.bench.talking import running

EVENTS = b"GET /events?every=20 HTTP/1.1\r\nHost: s\r\n\r\n"
NO_ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def listen(*plan: Any) -> dict[str, Any]:
    return streams.drive(streams.Plan(*plan))


def event(stamp: int) -> bytes:
    text = b"data: %d\n\n" % stamp
    return b"%x\r\n%b\r\n" % (len(text), text)


def test_streams_count_the_events_of_every_listener() -> None:
    with running("bench.sandbox", "--listen", "127.0.0.1:0") as (_, address):
        result = listen(address, [EVENTS], 150, 0.5)
    assert result["errors"] == NO_ERRORS
    assert result["events"] == result["requests"]
    assert 150 * 5 <= result["events"] <= 150 * 27
    assert result["bytes"] >= result["events"] * len(event(time.monotonic_ns())) * 0.9
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"] < 500_000


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (answering_once(CHUNKED + event(2) + event(1)), "read"),
        (answering_once(CHUNKED + event(2) + event(2)), "read"),
        (answering_once(CHUNKED + event(1)), "read"),
        (answering_once(CHUNKED + event(1) + b"0\r\n\r\n"), "read"),
        (answering_once(CHUNKED + b"5\r\nhello\r\n2\r\n\n\n\r\n"), "read"),
        (answering(CHUNKED), "timeout"),
        (answering(ANSWER), "read"),
        (answering(CHUNKED.replace(b"200", b"503")), "status"),
        (answering(b"junk" * 50_000), "read"),
    ],
    ids=["disorder", "repeated", "cut", "ended", "no-event", "silent", "no-stream", "status", "endless-head"],
)
def test_streams_count_what_goes_wrong_once_per_listener(handler: Handler, kind: str) -> None:
    with scripted(handler) as address:
        result = listen(address, [EVENTS], 3, 0.2)
    assert result["errors"] == NO_ERRORS | {kind: 3}


def test_streams_give_up_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "BATCH", 10)
    with refusing() as address:
        result = listen(address, [EVENTS], 35, 0.1)
    assert result["errors"] == NO_ERRORS | {"connect": 35}


def test_streams_count_heads_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "OPEN_TIMEOUT", 0.1)
    with scripted(answering(b"")) as address:
        result = listen(address, [EVENTS], 3, 0.1)
    assert result["errors"] == NO_ERRORS | {"timeout": 3}

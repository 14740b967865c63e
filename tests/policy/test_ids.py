"""What names a request: which ids are kept, and how they are told."""

from __future__ import annotations

import pytest

from fastrouter.policy.ids import HEAD_END, request_id_of, trace_id_in, traceparent_of
from fastrouter.wire.heads import parse_request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def head(*lines: str) -> bytes:
    return "\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "given",
    ["a", "0198-7c", "550e8400-e29b-41d4-a716-446655440000", "Root=1-67891233-abcdef012345", "x" * 128],
)
def test_an_id_of_the_client_is_kept(given: str) -> None:
    assert request_id_of(parse_request(head(f"X-REQUEST-id: {given}"))) == given.encode("ascii")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("X-Request-ID:",),
        ("X-Request-ID: a", "Connection: x-request-id"),
    ],
)
def test_what_is_not_there_or_stops_here_is_none(lines: tuple[str, ...]) -> None:
    assert request_id_of(parse_request(head(*lines))) == b""


def test_the_line_ends_a_head() -> None:
    assert HEAD_END % b"abc" == b"X-Request-ID: abc\r\n\r\n"


def test_one_traceparent_is_taken_as_it_came() -> None:
    assert traceparent_of(parse_request(head("traceparent: anything")).fields) == b"anything"
    assert traceparent_of(parse_request(head("traceparent: a", "Traceparent: a")).fields) == b""
    assert traceparent_of(parse_request(head()).fields) == b""


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-is-to-come", TRACE),
        (f"00-{TRACE}", ""),
        (f"00-{TRACE}0-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        ('00-"}-1-1', ""),
        ("", ""),
    ],
)
def test_the_trace_id_of_a_traceparent(traceparent: str, trace_id: str) -> None:
    assert trace_id_in(traceparent.encode("ascii")) == trace_id

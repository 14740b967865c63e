"""The router's own replies, byte for byte."""

from __future__ import annotations

import pytest

from fastrouter.wire.replies import HEALTHY, error_reply

HEAD = (
    b"HTTP/1.1 502 Bad Gateway\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: 58\r\n"
    b"X-Sandbox-Router-Error: connect_refused\r\n"
)
BODY = b'{"detail":"Could not connect to the backend sandbox: box"}'


@pytest.mark.parametrize(
    ("close", "head_only", "end"),
    [
        (False, False, b"\r\n" + BODY),
        (True, False, b"Connection: close\r\n\r\n" + BODY),
        (False, True, b"\r\n"),
        (True, True, b"Connection: close\r\n\r\n"),
    ],
)
def test_an_error_is_json_with_its_reason_word(close: bool, head_only: bool, end: bytes) -> None:
    detail = "Could not connect to the backend sandbox: box"
    reply = error_reply(502, detail, "connect_refused", close=close, head_only=head_only)
    assert reply == HEAD + end


def test_a_detail_cannot_leave_its_string() -> None:
    reply = error_reply(400, 'a"}\r\nX: \xe9\n', "bad_request", close=False, head_only=False)
    assert reply.endswith(b'\r\n\r\n{"detail":"a\\"}\\r\\nX: \\u00e9\\n"}')


@pytest.mark.parametrize(
    ("close", "head_only", "end"),
    [
        (False, False, b'\r\n{"status":"ok"}'),
        (True, False, b'Connection: close\r\n\r\n{"status":"ok"}'),
        (False, True, b"\r\n"),
        (True, True, b"Connection: close\r\n\r\n"),
    ],
)
def test_the_health_reply(close: bool, head_only: bool, end: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n"
    assert HEALTHY[close, head_only] == head + end

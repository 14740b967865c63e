"""The router's own replies, as bytes."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final


def _reply(status: int, payload: dict[str, str], extra: bytes, *, close: bool, head_only: bool) -> bytes:
    body = json.dumps(payload, separators=(",", ":")).encode("ascii")
    head = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b\r\n" % (
        status,
        HTTPStatus(status).phrase.encode("ascii"),
        len(body),
        extra,
        b"Connection: close\r\n" if close else b"",
    )
    return head if head_only else head + body


def error_reply(  # noqa: PLR0913 - as many as the reply tells
    status: int, detail: str, reason: str, *, close: bool, head_only: bool, lines: bytes = b""
) -> bytes:
    """Return the reply for a failure; ``head_only`` answers HEAD (RFC 9110 9.3.2).

    ``lines`` are further field lines, each with its end.
    """
    extra = b"X-Sandbox-Router-Error: %b\r\n%b" % (reason.encode("ascii"), lines)
    if status == HTTPStatus.UNAUTHORIZED:
        extra += b"WWW-Authenticate: Bearer\r\n"  # RFC 9110 15.5.2
    return _reply(status, {"detail": detail}, extra, close=close, head_only=head_only)


HEALTHY: Final = {
    (close, head_only): _reply(200, {"status": "ok"}, b"", close=close, head_only=head_only)
    for close in (False, True)
    for head_only in (False, True)
}

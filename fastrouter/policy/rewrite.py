"""The only place where a header is added, dropped or changed, in both directions.

A head is always written anew from parsed values, never copied: what this router understood is what the other
side reads (contract sections 2 and 3).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastrouter.policy.target import ROUTING_NAMES, Target
from fastrouter.wire.fields import HOP_BY_HOP, NO_TRAILER, Fields
from fastrouter.wire.framing import Kind
from fastrouter.wire.heads import RequestHead, ResponseHead

# A Connection option may name any field, but not take away what frames or addresses the message: that
# would be a way to smuggle (RFC 9110 7.6.1 lets only hop-by-hop fields be named).
_NEVER_NOMINATED: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})

# The router restates these for every request: no peer is trusted with them.
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
# The client's credentials are for the router; both reference routers drop them.
_CREDENTIALS: Final = frozenset({b"authorization"})
_REQUEST_DROPS: Final = (HOP_BY_HOP - {b"transfer-encoding"}) | ROUTING_NAMES | _FORWARDED | _CREDENTIALS
_RESPONSE_DROPS: Final = HOP_BY_HOP - {b"transfer-encoding"}
_TRAILER_DROPS: Final = NO_TRAILER | ROUTING_NAMES | _FORWARDED


def request_head(head: RequestHead, target: Target) -> bytes:
    """Return the head for the sandbox up to the value of ``X-Forwarded-For``, its last field.

    The value is the peer's address and the end ``CRLF CRLF``: it is all that differs between clients that
    send the same bytes, so the rest can be kept with the parsed head.
    """
    host = target.authority
    parts = [head.method, b" ", head.target, b" HTTP/1.1\r\n"]
    forwarded: list[bytes] = []
    for name, raw_name, value in head.fields:
        if name == b"host":
            parts += (b"Host: ", host, b"\r\n")
            forwarded += (b"X-Forwarded-Host: ", value, b"\r\n")
        elif name == b"transfer-encoding":
            parts += (raw_name, b": chunked\r\n")
        elif name == b"content-length" or not (name in _REQUEST_DROPS or name in head.options):
            parts += (raw_name, b": ", value, b"\r\n")
    if not forwarded:
        parts[4:4] = (b"Host: ", host, b"\r\n")  # a client of HTTP/1.0 may send none
    return b"".join([*parts, b"X-Forwarded-Proto: http\r\n", *forwarded, b"X-Forwarded-For: "])


def response_head(head: ResponseHead, *, http11: bool, close: bool) -> bytes:
    """Return the head for the client.

    ``http11`` tells that the client speaks HTTP/1.1: to an older one no chunked framing goes. ``close`` tells
    that its connection ends with this response.
    """
    drops = _RESPONSE_DROPS | (head.options - _NEVER_NOMINATED)
    if head.informational or head.status == HTTPStatus.NO_CONTENT:
        drops |= {b"content-length", b"transfer-encoding"}  # RFC 9110 8.6, RFC 9112 6.1
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    for name, raw_name, value in head.fields:
        if name in drops:
            continue
        if name == b"transfer-encoding":
            if http11:
                lines.append(b"%b: chunked\r\n" % raw_name)
        else:
            lines.append(b"%b: %b\r\n" % (raw_name, value))
    if not head.informational:
        lines.append(_connection(http11=http11, close=close))
    lines.append(b"\r\n")
    return b"".join(lines)


def trailers(fields: Fields) -> Fields:
    """Return the trailer fields that may be passed on, in both directions (RFC 9110 6.5.1)."""
    return tuple(field for field in fields if field[0] not in _TRAILER_DROPS)


def closes(head: ResponseHead, *, http11: bool, method: bytes) -> bool:
    """Tell whether this response can only end with the client's connection."""
    kind = head.framing_for(method).kind
    return kind is Kind.UNTIL_CLOSE or (kind is Kind.CHUNKED and not http11)


def _connection(*, http11: bool, close: bool) -> bytes:
    """State what differs from the default of the client's version (RFC 9112 9.3)."""
    if close:
        return b"Connection: close\r\n"
    return b"" if http11 else b"Connection: keep-alive\r\n"

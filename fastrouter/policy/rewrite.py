"""The only place where a header is added, dropped or changed, in both directions.

A head is always written anew from parsed values, never copied: what this router understood is what the other
side reads (contract sections 2 and 3).
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Final

from fastrouter.policy.ids import REQUEST_ID, request_id_of
from fastrouter.policy.rules import Rules
from fastrouter.policy.target import ROUTING_NAMES, Target
from fastrouter.wire.fields import HOP_BY_HOP, NO_TRAILER, Fields, select
from fastrouter.wire.framing import Framing, Kind
from fastrouter.wire.heads import RequestHead, ResponseHead

# A Connection option may name any field, but not take away what frames or addresses the message: that
# would be a way to smuggle (RFC 9110 7.6.1 lets only hop-by-hop fields be named).
_NEVER_NOMINATED: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})

# The router restates these for every request; only of a trusted proxy something is kept.
FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
_REQUEST_DROPS: Final = (HOP_BY_HOP - {b"transfer-encoding"}) | ROUTING_NAMES | FORWARDED
_NO_RULES: Final = Rules()
_RESPONSE_DROPS: Final = HOP_BY_HOP - {b"transfer-encoding"}
_TRAILER_DROPS: Final = NO_TRAILER | ROUTING_NAMES | FORWARDED


def request_head(
    head: RequestHead,
    target: Target,
    rules: Rules = _NO_RULES,
    *,
    trusted: bool = False,
    upgrade: bytes = b"",
) -> bytes:
    """Return the head for the sandbox up to the peer's place in ``X-Forwarded-For``, its last field.

    The peer's address and the end ``CRLF CRLF`` are all that differs between clients that send the same
    bytes, so the rest can be kept with the parsed head. ``trusted``: the peer is a proxy whose
    ``X-Forwarded-*`` count. ``upgrade``: the protocol that the request may switch to.
    """
    parts = [head.method, b" ", head.target, b" HTTP/1.1\r\n"]
    host = b""
    drops = _drops(rules, upgrading=bool(upgrade))
    if rules.request_ids and not request_id_of(head):
        drops |= {REQUEST_ID}  # the router gives it one
    for name, raw_name, value in head.fields:
        if name == b"host":
            host = value
            parts += (b"Host: ", target.authority, b"\r\n")
        elif name == b"transfer-encoding":
            parts += (raw_name, b": chunked\r\n")
        elif name == b"content-length" or not (name in drops or name in head.options):
            parts += (raw_name, b": ", value, b"\r\n")
    if not host:
        parts[4:4] = (b"Host: ", target.authority, b"\r\n")  # a client of HTTP/1.0 may send none
    if upgrade:
        parts += (b"Connection: Upgrade\r\nUpgrade: ", upgrade, b"\r\n")
    return b"".join([*parts, *_forwarded(head.fields, host, rules.scheme, trusted=trusted)])


@cache
def _drops(rules: Rules, *, upgrading: bool) -> frozenset[bytes]:
    """Return the fields that stop here; kept, since the rules are the same for every request."""
    drops = _REQUEST_DROPS | rules.drops
    # code-server and Jupyter compare Origin with Host, which is no longer the client's.
    return drops | {b"origin"} if upgrading and not rules.forward_origin else drops


def _forwarded(fields: Fields, host: bytes, scheme: bytes, *, trusted: bool) -> list[bytes]:
    """Say who asked, how and for what name; a trusted proxy has said so already."""
    said = select(fields, FORWARDED) if trusted else {}
    lines = [b"X-Forwarded-Proto: %b\r\n" % said.get(b"x-forwarded-proto", [scheme])[0]]
    hosts = said.get(b"x-forwarded-host", [host] if host else [])
    lines += [b"X-Forwarded-Host: %b\r\n" % value for value in hosts[:1]]
    chain = b", ".join(filter(None, said.get(b"x-forwarded-for", [])))
    lines.append(b"X-Forwarded-For: " + (chain + b", " if chain else b""))
    return lines


def response_head(head: ResponseHead, *, http11: bool, close: bool) -> bytes:
    """Return the head for the client, without the empty line: more fields may follow.

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
    return b"".join(lines)


def switching_head(head: ResponseHead) -> bytes:
    """Return the head of a 101 for the client, ``Upgrade`` and ``Connection`` included (RFC 9110 7.8).

    It comes without the empty line, as ``response_head`` does.
    """
    drops = (HOP_BY_HOP | head.options | {b"content-length"}) - {b"upgrade"}
    lines = [b"HTTP/1.1 101 %b\r\n" % head.reason]
    lines += [b"%b: %b\r\n" % (raw_name, value) for name, raw_name, value in head.fields if name not in drops]
    lines.append(b"Connection: Upgrade\r\n")
    return b"".join(lines)


def trailers(fields: Fields) -> Fields:
    """Return the trailer fields that may be passed on, in both directions (RFC 9110 6.5.1)."""
    return tuple(field for field in fields if field[0] not in _TRAILER_DROPS)


def closes(framing: Framing, *, http11: bool) -> bool:
    """Tell whether a response so framed can only end with the client's connection."""
    kind = framing.kind
    return kind is Kind.UNTIL_CLOSE or (kind is Kind.CHUNKED and not http11)


def _connection(*, http11: bool, close: bool) -> bytes:
    """State what differs from the default of the client's version (RFC 9112 9.3)."""
    if close:
        return b"Connection: close\r\n"
    return b"" if http11 else b"Connection: keep-alive\r\n"

"""Heads: the strict checks of a proxy, then h11.

h11 validates messages, not proxies: it takes bare LF, obs-fold, control bytes in values, and Content-Length
beside Transfer-Encoding. Whatever two parsers may read differently is refused here first (contract
section 7; RFC 9112 sections 2.2, 5 and 6, 11.2).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, NamedTuple

import h11

from fastrouter.errors import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    METHOD_NOT_ALLOWED,
    TARGET_TOO_LONG,
    UNSUPPORTED_CODING,
    UNSUPPORTED_VERSION,
    Cause,
    MalformedMessageError,
)
from fastrouter.wire import framing
from fastrouter.wire.fields import BARE_LF, FIELD_LINES, TOKEN, Fields, members_of, select
from fastrouter.wire.framing import Framing, Kind

END: Final = b"\r\n\r\n"
END_SIZE: Final = len(END)
MAX_HEAD: Final = 64 * 1024
MAX_FIELDS: Final = 256
MAX_REQUEST_LINE: Final = 16 * 1024

_REQUEST: Final = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/1\.[01]\r\n" + FIELD_LINES + rb"\r\n")
_RESPONSE: Final = re.compile(
    rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + FIELD_LINES + rb"\r\n"
)
_OTHER_VERSION: Final = re.compile(TOKEN + rb" [\x21-\x7e]++ HTTP/(?!1\.[01]\r\n)[0-9]+(?:\.[0-9]+)?\r\n")
_REQUEST_LINE_START: Final = re.compile(TOKEN + rb"(?: [\x21-\x7e]*+(?: [HTP/0-9.]*+\r?)?)?")
# h11 takes a list of equal lengths for one: the check has to come before it.
_BAD_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length:(?![\t ]*+[0-9]{1,19}[\t ]*+\r\n)")
_ABSOLUTE_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]+")
_ANY_UPGRADE: Final = h11.Request(
    method=b"GET", target=b"/", headers=[(b"host", b"-"), (b"connection", b"upgrade"), (b"upgrade", b"-")]
)
# What a head says about its own message; found in one pass, and all that is read here of its fields.
STATED: Final = frozenset({b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"})
# Python 3.11 looks members of an enum up slowly: what every new head needs is looked up once.
_LENGTH: Final = Kind.LENGTH
_FIRST_FINAL: Final = int(HTTPStatus.OK)
_WITHOUT_BODY: Final = frozenset({int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED)})
_HOST: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]+")

Stated = dict[bytes, list[bytes]]


class RequestHead(NamedTuple):
    """One request head. ``target`` is what goes upstream: origin-form, or ``*`` (RFC 9112 3.2)."""

    method: bytes
    target: bytes
    http11: bool
    fields: Fields
    framing: Framing
    keep_alive: bool
    expects_continue: bool
    options: frozenset[bytes]
    """The members of Connection, lower case: ``close`` and the names of fields for this hop only."""


class ResponseHead(NamedTuple):
    """One response head. ``framing`` is what it states: the method or the status may say "no body"."""

    status: int
    reason: bytes
    http11: bool
    fields: Fields
    framing: Framing
    keep_alive: bool
    options: frozenset[bytes]

    @property
    def informational(self) -> bool:
        """True for 1xx: the final response is still to come (RFC 9110 15.2)."""
        return self.status < _FIRST_FINAL

    def framing_for(self, method: bytes) -> Framing:
        """Return the framing of this response to a request of ``method``."""
        return framing_for(self.status, self.framing, method)


def framing_for(status: int, stated: Framing, method: bytes) -> Framing:
    """Return the framing of a response to a request of ``method``; the head has stated one (RFC 9112 6.3)."""
    if method == b"HEAD" or status in _WITHOUT_BODY or status < _FIRST_FINAL:
        return framing.NONE
    return stated


def check_incomplete(data: bytes, scanned: int) -> None:
    """Raise if ``data``, a head whose end has not come, can no longer become one.

    ``scanned`` bytes were checked by earlier calls. Without this, a head with bare LF ends or TLS on the
    plain port would wait for the timeout instead of an answer.
    """
    line_end = data.find(b"\r\n", 0, MAX_REQUEST_LINE + 2)
    if line_end < 0 and len(data) > MAX_REQUEST_LINE + 1:
        raise MalformedMessageError("request line too long", _long_line(data))
    if len(data) >= MAX_HEAD:
        raise MalformedMessageError("head too large", HEADERS_TOO_LARGE)
    if BARE_LF.search(data, max(0, scanned - 1)):
        raise MalformedMessageError("bare LF")
    if line_end < 0 and data != b"\r" and not _REQUEST_LINE_START.fullmatch(data):
        raise MalformedMessageError("no request line")


def parse_request(raw: bytes) -> RequestHead:
    """Parse a whole request head, empty line included; raise ``MalformedMessageError``."""
    if _REQUEST.fullmatch(raw) is None:
        raise MalformedMessageError("malformed request head", _request_fault(raw))
    _check_raw(raw)
    if raw.find(b"\r\n") > MAX_REQUEST_LINE:
        raise MalformedMessageError("request line too long", _long_line(raw))
    event = _request(raw)
    fields = _fields(event)
    http11 = event.http_version == b"1.1"
    stated = select(fields, STATED)
    options = members_of(stated.get(b"connection", ()))
    _check_host(stated)
    return RequestHead(
        method=event.method,
        target=_origin_form(event.method, event.target),
        http11=http11,
        fields=fields,
        framing=_framing(stated, framing.NONE, http11=http11),
        keep_alive=_keep_alive(options, http11=http11),
        expects_continue=http11 and b"100-continue" in members_of(stated.get(b"expect", ())),
        options=options,
    )


def parse_response(raw: bytes) -> ResponseHead:
    """Parse a whole response head, empty line included; raise ``MalformedMessageError``."""
    if _RESPONSE.fullmatch(raw) is None:
        raise MalformedMessageError("malformed response head")
    _check_raw(raw)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    if raw[9:10] == b"1":
        # h11 takes an informational response only after a request, and a 101 after one that offers it.
        connection.send(_ANY_UPGRADE)
    event = _read(connection, raw)
    assert isinstance(event, h11.Response | h11.InformationalResponse)  # noqa: S101 - the head was whole
    fields = _fields(event)
    http11 = event.http_version == b"1.1"
    stated = select(fields, STATED)
    options = members_of(stated.get(b"connection", ()))
    return ResponseHead(
        status=event.status_code,
        reason=event.reason,
        http11=http11,
        fields=fields,
        framing=_framing(stated, framing.UNTIL_CLOSE, http11=http11),
        # A sandbox of HTTP/1.0 gets one request per connection: its keep-alive was never standardised.
        keep_alive=http11 and _keep_alive(options, http11=True),
        options=options,
    )


def _request(raw: bytes) -> h11.Request:
    """Give h11 a head that has passed the strict grammar, cut where the grammar cuts it.

    h11 checks names, values, lengths, codings and Host again. Its connection would cut the bytes once more,
    and keep a state that one request has no use for: 40 % of the time (docs/decisions/0006).
    """
    first, *lines = raw[:-END_SIZE].split(b"\r\n")
    method, target, version = first.split(b" ")
    cut = [line.partition(b":") for line in lines]
    try:
        return h11.Request(
            method=method,
            target=target,
            headers=[(name, value.strip(b" \t")) for name, _, value in cut],
            http_version=version[-3:],
        )
    except h11.LocalProtocolError as error:
        raise _malformed(error) from error


def _read(connection: h11.Connection, raw: bytes) -> object:
    connection.receive_data(raw)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise _malformed(error) from error


def _malformed(error: h11.ProtocolError) -> MalformedMessageError:
    unsupported = error.error_status_hint == UNSUPPORTED_CODING.status
    return MalformedMessageError(str(error), UNSUPPORTED_CODING if unsupported else BAD_REQUEST)


def _fields(event: h11.Request | h11.Response | h11.InformationalResponse) -> Fields:
    return tuple([(raw_name.lower(), raw_name, value) for raw_name, value in event.headers.raw_items()])


def _check_raw(raw: bytes) -> None:
    if len(raw) > MAX_HEAD or raw.count(b"\r\n") - 2 > MAX_FIELDS:
        raise MalformedMessageError("head too large", HEADERS_TOO_LARGE)
    if _BAD_LENGTH.search(raw):
        raise MalformedMessageError("malformed Content-Length")


def _check_host(stated: Stated) -> None:
    """Check the one Host; h11 has refused its absence on 1.1 and a second one (RFC 9112 3.2)."""
    for value in stated.get(b"host", ()):
        if _HOST.fullmatch(value) is None:
            raise MalformedMessageError("malformed Host")


def _framing(stated: Stated, default: Framing, *, http11: bool) -> Framing:
    """Return the framing that the fields state (RFC 9112 6.3); h11 has compared repeated lengths."""
    codings = stated.get(b"transfer-encoding")
    lengths = stated.get(b"content-length")
    if codings:
        if lengths:
            raise MalformedMessageError("Content-Length beside Transfer-Encoding")
        if not http11:
            raise MalformedMessageError("Transfer-Encoding in HTTP/1.0")  # RFC 9112 6.1
        return framing.CHUNKED
    if not lengths:
        return default
    return Framing(_LENGTH, int(lengths[0]))


def _keep_alive(options: frozenset[bytes], *, http11: bool) -> bool:
    """Tell whether the sender keeps the connection (RFC 9112 9.3)."""
    return b"close" not in options and (http11 or b"keep-alive" in options)


def _origin_form(method: bytes, target: bytes) -> bytes:
    """Reduce a target to what goes upstream; no decoding, no normalisation (RFC 9112 3.2)."""
    if method == b"CONNECT":
        raise MalformedMessageError("CONNECT", METHOD_NOT_ALLOWED)
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    match = _ABSOLUTE_FORM.match(target)
    if match is None:
        raise MalformedMessageError("malformed request target")
    path = target[match.end() :]
    if not path and method == b"OPTIONS":
        return b"*"  # RFC 9112 3.2.4
    return path if path.startswith(b"/") else b"/" + path


def _request_fault(raw: bytes) -> Cause:
    return UNSUPPORTED_VERSION if _OTHER_VERSION.match(raw) else BAD_REQUEST


def _long_line(data: bytes) -> Cause:
    """Name a request line over the limit: a long target, or garbage."""
    return TARGET_TOO_LONG if _REQUEST_LINE_START.fullmatch(data, 0, MAX_REQUEST_LINE) else BAD_REQUEST

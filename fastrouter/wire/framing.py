"""Where a body ends (RFC 9112 section 6), and meters that follow a body piece by piece.

A meter takes the bytes as they arrive and returns the bytes to send on. It knows when the body is ``done``,
keeps what came behind it in ``excess``, and raises ``MalformedMessageError`` for what is no body.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, Protocol

import h11

from fastrouter.errors import BODY_TOO_LARGE, MalformedMessageError, TruncatedMessageError
from fastrouter.wire.fields import BARE_LF, Fields, is_field_block


class Kind(Enum):
    """How the end of a body is told."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Framing(NamedTuple):
    """The framing of one message; ``length`` is the body's size in bytes where the kind is LENGTH."""

    kind: Kind
    length: int = 0


NONE: Final = Framing(Kind.NONE)
CHUNKED: Final = Framing(Kind.CHUNKED)
UNTIL_CLOSE: Final = Framing(Kind.UNTIL_CLOSE)

TrailerRewrite = Callable[[Fields], Fields]


class Body(Protocol):
    """A meter: the four things that a splice needs to know of a body."""

    done: bool
    excess: bytes
    total: int

    @property
    def backlog(self) -> bool:
        """True while bytes already taken wait for another ``feed(b"")``."""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, return what to send on."""

    def eof(self) -> None:
        """Note that the sender closed: ends the body or raises ``TruncatedMessageError``."""


class LengthBody:
    """A body of a known number of bytes, passed on as it is."""

    __slots__ = ("done", "excess", "remaining", "total")

    backlog = False

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0
        self.excess = b""
        self.total = 0

    def feed(self, data: bytes) -> bytes:
        """Pass ``data`` on, up to the end of the body."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            self.total += size
            return data
        out = data[: self.remaining]  # no copy where the piece ends with the body
        self.excess = data[self.remaining :]
        self.total += self.remaining
        self.remaining = 0
        self.done = True
        return out

    def skip(self, size: int) -> None:
        """Count ``size`` bytes that were passed on by somebody else; there are no more than that left."""
        self.remaining -= size
        self.total += size
        self.done = not self.remaining

    def eof(self) -> None:
        """Raise unless the body was complete."""
        if not self.done:
            raise TruncatedMessageError(f"closed {self.remaining} bytes before the end of the body")


class UntilCloseBody:
    """A response body that ends with its connection (RFC 9112 6.3, last rule)."""

    __slots__ = ("done", "excess", "total")

    backlog = False

    def __init__(self) -> None:
        self.done = False
        self.excess = b""
        self.total = 0

    def feed(self, data: bytes) -> bytes:
        """Pass ``data`` on."""
        self.total += len(data)
        return data

    def eof(self) -> None:
        """End the body."""
        self.done = True


_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_MAX_CHUNK_LINE: Final = 4096
_MAX_TRAILERS: Final = 16 * 1024
# h11 takes about 10 us a chunk: 256 KiB of one-byte chunks would hold the event loop for half a second, so
# a feed stops after this many lines and asks to be fed again.
_MAX_LINES_PER_FEED: Final = 256
# Any head that makes h11 expect a chunked body; the real one has been read already.
_CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nHost: -\r\nTransfer-Encoding: chunked\r\n\r\n"


class ChunkedBody:
    """A chunked body (RFC 9112 7.1), read by h11 and framed anew.

    h11 reads sizes, data and trailers. Before it sees a line, the line passes the strict grammar: h11 alone
    takes bare LF, 20 hex digits and any byte in an extension. Extensions are dropped (RFC 9112 7.1.1), and
    the chunks of one piece leave as one chunk. With ``reframe`` off the bare data leaves (HTTP/1.0 clients).
    """

    __slots__ = (
        "_announced",
        "_expected",
        "_held",
        "_in_trailers",
        "_limit",
        "_reader",
        "_reframe",
        "_trailers",
        "backlog",
        "done",
        "excess",
        "total",
    )

    def __init__(self, trailers: TrailerRewrite, *, reframe: bool = True, limit: int = 0) -> None:
        """Pass ``trailers`` on; refuse a body of over ``limit`` bytes (0: none) when its size is told."""
        self._limit = limit
        self._announced = 0
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * _MAX_TRAILERS)
        self._reader.receive_data(_CHUNKED_HEAD)
        self._reader.next_event()
        self._trailers = trailers
        self._reframe = reframe
        self._held = b""  # the start of a line whose end has not come
        self._expected = 0  # bytes of the open chunk, its CRLF included
        self._in_trailers = False
        self.backlog = False
        self.done = False
        self.excess = b""
        self.total = 0

    def feed(self, data: bytes) -> bytes:
        """Return the data of ``data``'s chunks as one chunk, and the last chunk with the trailers."""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        end = b""
        position = lines = 0
        self.backlog = False
        while position < len(data) and not self.done:
            if self._expected:
                piece = data[position : position + self._expected]
                self._expected -= len(piece)
            elif lines == _MAX_LINES_PER_FEED:
                self.backlog = True
                break
            else:
                piece = self._line(data, position)
                lines += 1
                if not piece:
                    break
            position += len(piece)
            end = self._read(piece, pieces)
        if self.done:
            self.excess = data[position:]
        else:
            self._held = data[position:]
        return self._framed(b"".join(pieces)) + end

    def eof(self) -> None:
        """Raise unless the last chunk was seen."""
        if not self.done:
            raise TruncatedMessageError("closed before the last chunk")

    def _line(self, data: bytes, start: int) -> bytes:
        """Return the checked line (or trailer section) at ``start``, or nothing while it is incomplete."""
        if self._in_trailers and data[start : start + 2] != b"\r\n":
            return self._trailer_section(data, start)
        stop = data.find(b"\r\n", start, start + _MAX_CHUNK_LINE) + 2
        if stop == 1:
            if len(data) - start >= _MAX_CHUNK_LINE or b"\n" in data[start:]:
                raise MalformedMessageError("no CRLF at the end of a chunk size")
            return b""
        line = data[start:stop]
        if not self._in_trailers:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise MalformedMessageError("malformed chunk size")
            size = int(match[1], 16)
            self._announced += size
            if 0 < self._limit < self._announced:
                raise MalformedMessageError("body over the limit", BODY_TOO_LARGE)
            self._in_trailers = size == 0
            self._expected = size + 2 if size else 0
        return line

    def _trailer_section(self, data: bytes, start: int) -> bytes:
        stop = data.find(b"\r\n\r\n", start, start + _MAX_TRAILERS) + 4
        if stop == 3:  # noqa: PLR2004 - find() said -1
            if len(data) - start >= _MAX_TRAILERS:
                raise MalformedMessageError("trailers too large")
            if BARE_LF.search(data, start):
                raise MalformedMessageError("bare LF in a trailer")  # else its end would be waited for
            return b""
        if not is_field_block(data[start:stop]):
            raise MalformedMessageError("malformed trailer")
        return data[start:stop]

    def _read(self, piece: bytes, pieces: list[bytes]) -> bytes:
        """Give ``piece`` to h11, collect the data; return the end of the body once it has come."""
        self._reader.receive_data(piece)
        while True:
            try:
                event = self._reader.next_event()
            except h11.RemoteProtocolError as error:
                raise MalformedMessageError(f"chunked body: {error}") from error
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self.done = True
                return self._last_chunk(event)
            else:
                return b""

    def _framed(self, data: bytes) -> bytes:
        self.total += len(data)
        if data and self._reframe:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return data

    def _last_chunk(self, event: h11.EndOfMessage) -> bytes:
        if not self._reframe:
            return b""
        raw_items = event.headers.raw_items()
        trailers = self._trailers(tuple((raw_name.lower(), raw_name, value) for raw_name, value in raw_items))
        lines = b"".join(b"%b: %b\r\n" % (raw_name, value) for _, raw_name, value in trailers)
        return b"0\r\n%b\r\n" % lines


def body_for(framing: Framing, trailers: TrailerRewrite, *, reframe: bool = True) -> Body:
    """Return the meter for a body of this framing."""
    if framing.kind is Kind.CHUNKED:
        return ChunkedBody(trailers, reframe=reframe)
    if framing.kind is Kind.UNTIL_CLOSE:
        return UntilCloseBody()
    return LengthBody(framing.length)

"""Reads heads piece by piece, as a connection does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from fastrouter.errors import (
    Cause,
    MalformedMessageError,
)
from fastrouter.wire.heads import (
    END,
    RequestHead,
    ResponseHead,
    check_incomplete,
    parse_request,
    parse_response,
)
from tests.wire.ways import Way

T = TypeVar("T")


def read(
    pieces: list[bytes], parse: Callable[[bytes], T], check: Callable[[bytes, int], None]
) -> tuple[T, bytes]:
    """Read one head as a connection does; return it with what came behind it."""
    buffer = b""
    scanned = 0
    for number, piece in enumerate(pieces):
        buffer += piece
        end = buffer.find(END, max(0, scanned - 3))
        if end >= 0:
            end += len(END)
            return parse(buffer[:end]), buffer[end:] + b"".join(pieces[number + 1 :])
        check(buffer, scanned)
        scanned = len(buffer)
    raise AssertionError("neither a head nor an error")


def read_request(pieces: list[bytes]) -> tuple[RequestHead, bytes]:
    return read(pieces, parse_request, check_incomplete)


def read_response(pieces: list[bytes]) -> tuple[ResponseHead, bytes]:
    return read(pieces, parse_response, lambda data, scanned: None)


def cause_of(way: Way, raw: bytes) -> Cause:
    with pytest.raises(MalformedMessageError) as caught:
        read_request(way(raw)[0])
    return caught.value.cause


def head(*lines: bytes, start: bytes = b"POST /execute HTTP/1.1", host: bytes = b"Host: router") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


def request(
    *lines: bytes, start: bytes = b"POST /execute HTTP/1.1", host: bytes = b"Host: router"
) -> RequestHead:
    return parse_request(head(*lines, start=start, host=host))


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return parse_response(head(*lines, start=start, host=b""))

"""Three ways in which bytes arrive: whole, byte by byte, with the next message's bytes behind them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

NEXT = b"GET /next HTTP/1.1\r\nHost: router\r\n\r\n"

Way = Callable[[bytes], tuple[list[bytes], bytes]]
"""Message -> the pieces in which it arrives, and what of them is not of the message."""


def whole(data: bytes) -> tuple[list[bytes], bytes]:
    return [data], b""


def byte_by_byte(data: bytes) -> tuple[list[bytes], bytes]:
    return [data[at : at + 1] for at in range(len(data))], b""


def with_the_next(data: bytes) -> tuple[list[bytes], bytes]:
    return [data + NEXT], NEXT


each_way = pytest.mark.parametrize("way", [whole, byte_by_byte, with_the_next])

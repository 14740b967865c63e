"""What is sent when: all that one turn wrote, in its order, and before anything that ends a connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fastrouter.net.connection import Connection
from fastrouter.net.outbox import MOST, MOST_PIECES, Outbox


class Wire(asyncio.Transport):
    """Notes what it is told to write, and when it was asked to close."""

    refuses = False

    def __init__(self, number: int, log: list[tuple[int, bytes]]) -> None:
        super().__init__()
        self.number = number
        self.log = log
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.refuses:
            raise RuntimeError
        assert not self.closing
        self.log.append((self.number, bytes(data)))

    def writelines(self, list_of_data: object) -> None:
        assert isinstance(list_of_data, tuple)
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.write(b"EOF")

    def close(self) -> None:
        self.write(b"CLOSE")
        self.closing = True

    def abort(self) -> None:
        self.write(b"ABORT")
        self.closing = True


class Several:
    """Connections that share an outbox, and what was written to them."""

    def __init__(self, count: int) -> None:
        self.log: list[tuple[int, bytes]] = []
        self.outbox = Outbox()
        self.all = [Connection(asyncio.get_running_loop(), self.outbox) for _ in range(count)]
        for number, connection in enumerate(self.all):
            connection.connection_made(Wire(number, self.log))


async def test_the_writes_of_a_turn_go_out_at_its_end_in_the_order_they_were_made() -> None:
    several = Several(3)
    for number in (2, 0, 1, 0):
        several.all[number].post(b"%d" % number)
    assert several.log == []
    assert repr(several.outbox) == "<Outbox waiting=4>"
    await asyncio.sleep(0)
    assert several.log == [(2, b"2"), (0, b"0"), (1, b"1"), (0, b"0")]


async def test_what_is_written_in_the_next_turn_goes_out_then() -> None:
    several = Several(1)
    several.all[0].post(b"first")
    await asyncio.sleep(0)
    several.all[0].post(b"second")
    await asyncio.sleep(0)
    assert several.log == [(0, b"first"), (0, b"second")]


@pytest.mark.parametrize("end", ["close", "write_eof", "abort", "reset"])
async def test_an_end_comes_behind_what_was_written(end: str) -> None:
    several = Several(2)
    several.all[0].post(b"answer")
    several.all[1].post(b"other")
    getattr(several.all[0], end)()
    assert several.log[:2] == [(0, b"answer"), (1, b"other")]
    assert several.log[2][1] in {b"CLOSE", b"EOF", b"ABORT"}


@pytest.mark.parametrize("size", [10, 5_000, 20_000])
async def test_what_is_written_at_once_comes_behind_what_waits(size: int) -> None:
    several = Several(2)
    several.all[0].post(b"first")
    several.all[1].write_both(b"head", b"b" * size)
    several.all[0].write(b"second")
    assert several.log == [(0, b"first"), (1, b"head" + b"b" * size), (0, b"second")]


@pytest.mark.parametrize(("size", "waits"), [(10, True), (4000, True), (5_000, False), (20_000, False)])
async def test_long_ones_do_not_wait(size: int, waits: bool) -> None:
    several = Several(1)
    several.all[0].post(b"head", b"b" * size)
    assert several.log == ([] if waits else [(0, b"head" + b"b" * size)])
    await asyncio.sleep(0)
    assert several.log == [(0, b"head" + b"b" * size)]


async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    several = Several(2)
    several.all[0].transport.abort()
    for connection in several.all:
        connection.post(b"x")
    await asyncio.sleep(0)
    assert several.log == [(0, b"ABORT"), (1, b"x")]


async def test_a_transport_that_refuses_keeps_nobody_else_waiting() -> None:
    several = Several(2)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    several.all[0].post(b"refused")
    several.all[1].post(b"taken")
    cast(Wire, several.all[0].transport).refuses = True
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert several.log == [(1, b"taken")]
    assert [type(each) for each in told] == [RuntimeError]


async def test_many_do_not_wait_for_the_end_of_the_turn() -> None:
    several = Several(1)
    for number in range(MOST_PIECES):
        assert several.log == []
        several.all[0].post(b"%d" % number)
    assert len(several.log) == MOST_PIECES


async def test_what_ends_itself_is_ended_once() -> None:
    several = Several(1)
    several.all[0].close()
    several.all[0].write_eof()
    assert several.log == [(0, b"CLOSE")]


async def test_much_does_not_wait_for_the_end_of_the_turn() -> None:
    several = Several(2)
    for _ in range(MOST // 4000):
        several.all[0].post(b"x" * 4000)
    assert several.log == []
    several.all[1].post(b"y" * 4000)
    assert [number for number, _ in several.log] == [0] * (MOST // 4000) + [1]
    several.all[1].post(b"z")  # it counts anew
    assert several.log[-1] == (1, b"y" * 4000)

"""The relay moves bytes both ways, with back-pressure and close."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
import uvloop

from bench import relay
from bench.scenarios import MEGABYTE
from bench.serving import bound_address
from tests.bench.talking import LONG, converse_with, through_relay


def test_relay_moves_every_byte_both_ways_and_passes_the_half_close_on() -> None:
    async def echo_until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LONG)
        writer.write_eof()
        assert await reader.read(-1) == LONG + b"the end"

    through_relay(echo_until_end, converse)


def test_relay_passes_bytes_on_that_arrive_before_the_upstream_is_there() -> None:
    async def say_first_byte(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await reader.read(-1) == b"x"

    for _ in range(20):
        through_relay(say_first_byte, converse)


def test_relay_stops_reading_while_the_other_side_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[relay.Side] = []
    pause = relay.Side.pause_writing

    def record(side: relay.Side) -> None:
        paused.append(side)
        pause(side)
        full.set()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(str(len(await reader.read(-1))).encode())
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LONG * 8)
        writer.write_eof()
        await full.wait()
        side = paused[0]
        assert side.peer is not None
        assert not side.peer.transport.is_reading()
        assert side.transport.get_write_buffer_size() < MEGABYTE
        go_on.set()
        assert await reader.read(-1) == str(len(LONG * 8)).encode()

    monkeypatch.setattr(relay.Side, "pause_writing", record)
    full, go_on = asyncio.Event(), asyncio.Event()
    through_relay(read_late, converse)


def test_relay_closes_the_upstream_when_the_client_is_gone() -> None:
    gone = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        assert await reader.read(-1) == b""
        gone.set()
        writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await gone.wait()

    through_relay(wait_for_the_end, converse)


def test_relay_drops_the_client_when_nothing_listens_upstream() -> None:
    async def go() -> None:
        with socket.socket() as bound_only:
            bound_only.bind(("127.0.0.1", 0))
            with closing(await relay.start(("127.0.0.1", 0), bound_only.getsockname())) as server:
                await converse_with(bound_address(server), converse)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(-1) == b""

    uvloop.run(go())

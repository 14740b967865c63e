"""The sandbox of the benchmark: keep-alive, pipelining, bodies by count."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest
import uvloop

from bench import sandbox, ticker
from bench.scenarios import MEGABYTE
from tests.bench.talking import EXECUTE, LONG, read_answer, with_sandbox

CHUNKS = b"GET /chunks?count=%d&size=%d HTTP/1.1\r\nHost: s\r\n\r\n"
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: s\r\ncontent-length: %d\r\n\r\n"


class Silent(asyncio.Transport):
    """A connection that nobody reads."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unread = 0
        self.aborted = False
        self.more = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written.append(data)
        self.more.set()

    async def had(self, count: int) -> None:
        async with asyncio.timeout(2):
            while len(self.written) < count:
                self.more.clear()
                await self.more.wait()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True


def ask(responder: sandbox.Responder, request: bytes) -> None:
    responder.get_buffer(-1)[: len(request)] = request
    responder.buffer_updated(len(request))


def test_sandbox_answers_as_uvicorn_would() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EXECUTE)
        head, body = await read_answer(reader)
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
        assert b"\r\nserver: uvicorn\r\n" in head
        assert json.loads(body)["exit_code"] == 0
        assert 140 <= len(body) <= 170

    with_sandbox(converse)


def test_sandbox_answers_pipelined_requests_in_order() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EXECUTE + UPLOAD % 3 + b"abc" + b"GET /big?bytes=5 HTTP/1.1\r\n\r\n" + EXECUTE)
        bodies = [(await read_answer(reader))[1] for _ in range(4)]
        assert bodies == [sandbox.BODY, b'{"received":3}', bytes(range(5)), sandbox.BODY]

    with_sandbox(converse)


def test_sandbox_reads_requests_that_arrive_byte_by_byte() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for number in range(len(EXECUTE) * 2):
            writer.write((EXECUTE * 2)[number : number + 1])
            await writer.drain()
        assert [(await read_answer(reader))[1] for _ in range(2)] == [sandbox.BODY] * 2

    with_sandbox(converse)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 16 * 1024, 3 * MEGABYTE + 1])
def test_sandbox_skips_upload_bodies_by_count(size: int) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The body looks like requests: only the count says that it is none.
        body = (EXECUTE * (size // len(EXECUTE) + 1))[:size]
        for _ in range(3):
            writer.write(UPLOAD % size + body + EXECUTE)
            assert (await read_answer(reader))[1] == b'{"received":%d}' % size
            assert (await read_answer(reader))[1] == sandbox.BODY

    with_sandbox(converse)


def test_sandbox_holds_a_download_back_while_the_client_does_not_read() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /big?bytes=50000000 HTTP/1.1\r\n\r\n" + EXECUTE)
        await reader.readuntil(b"\r\n\r\n")
        pattern, seen = bytes(range(256)) * 256, 0
        while seen < 50_000_000:
            piece = await reader.readexactly(min(len(pattern), 50_000_000 - seen))
            assert piece == pattern[: len(piece)]
            seen += len(piece)
        assert (await read_answer(reader))[1] == sandbox.BODY

    with_sandbox(converse)


def test_sandbox_stops_sending_above_the_high_water_mark() -> None:
    class Full(asyncio.Transport):
        written = 0

        def write(self, data: Any) -> None:
            self.written += len(data)
            if self.written > sandbox.HIGH_WATER:
                responder.pause_writing()

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            assert high == sandbox.HIGH_WATER

    responder, transport = sandbox.Responder(sandbox.Replies()), Full()
    responder.connection_made(transport)
    ask(responder, b"GET /big?bytes=50000000 HTTP/1.1\r\n\r\n")
    assert transport.written < 2 * sandbox.HIGH_WATER


def test_sandbox_answers_404_to_anything_else() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /nothing HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 404 ")

    with_sandbox(converse)


async def read_chunks(reader: asyncio.StreamReader) -> list[bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    chunks = []
    while chunk := await read_chunk(reader):
        chunks.append(chunk)
    return chunks


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


def test_sandbox_sends_chunks_and_then_answers_what_waited() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for count, size in ((3, 20), (1, 1), (0, 5), (5, 0), (2000, 1000)):
            writer.write(CHUNKS % (count, size) + EXECUTE)
        for count, size in ((3, 20), (1, 1), (0, 5), (0, 0), (2000, 1000)):
            assert await read_chunks(reader) == [bytes(size)] * count
            assert (await read_answer(reader))[1] == sandbox.BODY

    with_sandbox(converse)


def test_sandbox_writes_every_chunk_in_a_turn_of_its_own() -> None:
    async def go() -> None:
        responder, transport = sandbox.Responder(sandbox.Replies()), Turns()
        responder.connection_made(transport)
        ask(responder, CHUNKS % (3, 1))
        for _ in range(5):
            transport.turn += 1
            await asyncio.sleep(0)
        assert transport.turns == [0, 0, 1, 2, 2]  # head and first chunk, second, third and last

    class Turns(Silent):
        turn = 0
        turns: list[int]

        def __init__(self) -> None:
            self.turns = []

        def write(self, data: Any) -> None:
            self.turns.append(self.turn)

    uvloop.run(go())


def test_sandbox_sends_events_that_tell_the_time() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started = time.monotonic_ns()
        writer.write(b"GET /events?every=10 HTTP/1.1\r\nHost: s\r\n\r\n" + EXECUTE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\ncontent-type: text/event-stream\r\n" in head
        events = [await read_chunk(reader) for _ in range(5)]
        stamps = [int(event.removeprefix(b"data: ").removesuffix(b"\n\n")) for event in events]
        assert started + 9_000_000 < stamps[0]
        assert stamps == sorted(set(stamps))
        assert stamps[-1] < time.monotonic_ns()

    with_sandbox(converse)


def test_one_timer_serves_all_listeners_and_ends_with_the_last() -> None:
    async def go() -> None:
        replies = sandbox.Replies()
        listeners = [(sandbox.Responder(replies), Silent()) for _ in range(3)]
        for responder, transport in listeners:
            responder.connection_made(transport)
            ask(responder, b"GET /events?every=1 HTTP/1.1\r\n\r\n")
        ticker = replies.tickers.of(0.001)
        assert ticker.listeners == {transport for _, transport in listeners}
        await listeners[0][1].had(3)
        assert {transport.written[-1] for _, transport in listeners} == {listeners[0][1].written[-1]}
        for responder, _ in listeners:
            responder.connection_lost(None)
        assert not ticker.listeners
        count = len(listeners[0][1].written)
        await asyncio.sleep(0.01)
        assert len(listeners[0][1].written) == count

    uvloop.run(go())


def test_a_listener_that_never_reads_loses_its_connection() -> None:
    async def go() -> None:
        replies, stuck = sandbox.Replies(), Silent()
        stuck.unread = ticker.MOST_UNREAD + 1
        responder = sandbox.Responder(replies)
        responder.connection_made(stuck)
        ask(responder, b"GET /events?every=1 HTTP/1.1\r\n\r\n")
        await stuck.had(2)
        assert stuck.aborted

    uvloop.run(go())


@pytest.mark.parametrize("path", [b"/terminal", b"/events?every=1", b"/"])
def test_sandbox_switches_to_an_echo_on_any_path(path: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADE % path + EXECUTE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        # The example of RFC 6455, 1.3.
        assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert await reader.readexactly(len(EXECUTE)) == EXECUTE
        for data in (b"\x82\x80mask", LONG, b"\r\n\r\n"):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data

    with_sandbox(converse)


def test_echo_takes_no_more_than_the_other_side_reads() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADE % b"/")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(LONG * 8)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await writer.drain()
        for _ in range(8):
            assert await reader.readexactly(len(LONG)) == LONG

    with_sandbox(converse)

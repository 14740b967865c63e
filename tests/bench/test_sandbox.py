"""The sandbox of the benchmark: keep-alive, pipelining, bodies by count."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from bench import sandbox
from bench.scenarios import MEGABYTE
from tests.bench.talking import EXECUTE, read_answer, with_sandbox

UPLOAD = b"POST /upload HTTP/1.1\r\nHost: s\r\ncontent-length: %d\r\n\r\n"


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
    request = b"GET /big?bytes=50000000 HTTP/1.1\r\n\r\n"
    responder.get_buffer(-1)[: len(request)] = request
    responder.buffer_updated(len(request))
    assert transport.written < 2 * sandbox.HIGH_WATER


def test_sandbox_answers_404_to_anything_else() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /nothing HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 404 ")

    with_sandbox(converse)

"""What both sides share: bytes, flow control, and how inactivity is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastrouter.net.connection import MAX_UNREAD, Connection
from fastrouter.net.outbox import Outbox
from tests.support import eventually


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Connection, socket.socket]]:
    """A connection and the raw socket at its other end."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    theirs.setblocking(False)
    _, connection = await loop.create_connection(lambda: Connection(loop, Outbox()), sock=ours)
    yield connection, theirs
    connection.abort()
    theirs.close()
    await asyncio.sleep(0)


class Recorder:
    """Stands in for a pipe."""

    def __init__(self) -> None:
        self.fed: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.fed.append(data)


class TestBytes:
    async def test_bytes_wake_the_reader_and_wait_for_it(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, peer = pair
        waiting = asyncio.ensure_future(connection.changed())
        await asyncio.sleep(0)
        peer.send(b"abc")
        await waiting
        assert connection.buffer == b"abc"
        peer.send(b"def")
        await eventually(lambda: connection.buffer == b"abcdef")

    async def test_bytes_go_to_the_pipe_while_there_is_one(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, peer = pair
        pipe: Any = Recorder()
        connection.pipe = pipe
        peer.send(b"abc")
        await eventually(lambda: pipe.fed == [b"abc"])
        assert connection.buffer == b""

    async def test_a_wait_may_be_woken_without_bytes_and_without_harm(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, _ = pair
        connection.wake()  # nobody waits
        waiting = asyncio.ensure_future(connection.changed())
        await asyncio.sleep(0)
        connection.wake()
        connection.wake()
        await waiting

    async def test_unread_bytes_are_bounded(self, pair: tuple[Connection, socket.socket]) -> None:
        connection, peer = pair
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(peer, b"x" * 10_000_000))
        await eventually(lambda: connection.reading_paused)
        assert MAX_UNREAD < len(connection.buffer) <= MAX_UNREAD + 256 * 1024
        total = 0
        while total < 10_000_000:
            total += len(connection.buffer)
            connection.buffer = b""
            connection.resume_reading()
            if total < 10_000_000:
                await connection.changed()
        await sending

    async def test_writing_to_a_closed_connection_does_nothing(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, _ = pair
        connection.abort()
        connection.write(b"late")
        connection.pause_reading()
        connection.resume_reading()
        assert not connection.reading_paused


class TestFlowControl:
    async def test_a_full_sink_pauses_its_source(self, pair: tuple[Connection, socket.socket]) -> None:
        connection, peer = pair
        loop = asyncio.get_running_loop()
        source = Connection(loop, Outbox())
        source.connection_made(Transport())
        connection.source = source
        connection.write(b"x" * 10_000_000)
        await eventually(lambda: connection.writing_paused)
        assert source.reading_paused
        total = 0
        while total < 10_000_000:
            total += len(await loop.sock_recv(peer, 1_000_000))
        await eventually(lambda: not connection.writing_paused)
        assert not source.reading_paused

    async def test_without_a_source_nobody_is_paused(self, pair: tuple[Connection, socket.socket]) -> None:
        connection, _ = pair
        connection.pause_writing()
        assert connection.writing_paused
        connection.resume_writing()
        assert not connection.writing_paused


class Transport(asyncio.Transport):
    """A transport without a socket."""

    size = 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.size


class TestMovement:
    async def test_bytes_that_came_are_told_once(self, pair: tuple[Connection, socket.socket]) -> None:
        connection, peer = pair
        assert not connection.has_moved()
        peer.send(b"x")
        await eventually(lambda: bool(connection.buffer))
        assert connection.has_moved()
        assert not connection.has_moved()

    async def test_a_peer_that_takes_bytes_moves_though_the_buffer_stays_high(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, peer = pair
        loop = asyncio.get_running_loop()
        connection.write(b"x" * 30_000_000)
        await eventually(lambda: connection.writing_paused)
        for _ in range(3):
            await eventually(lambda: not connection.has_moved())  # it has come to a halt
            await loop.sock_recv(peer, 1_000_000)
            await eventually(connection.has_moved)
            assert connection.writing_paused

    async def test_without_a_socket_the_transports_buffer_tells(self) -> None:
        transport = Transport()
        connection = Connection(asyncio.get_running_loop(), Outbox())
        connection.connection_made(transport)
        connection.writing_paused = True
        transport.size = 100
        assert connection.has_moved()
        assert not connection.has_moved()
        transport.size = 50
        assert connection.has_moved()

    async def test_a_connection_that_is_gone_does_not_move(
        self, pair: tuple[Connection, socket.socket]
    ) -> None:
        connection, _ = pair
        connection.write(b"x" * 30_000_000)
        connection.writing_paused = True
        connection.abort()
        await asyncio.sleep(0.01)
        connection.has_moved()
        assert not connection.has_moved()


class TestEnds:
    async def test_reset_is_no_clean_end(self, pair: tuple[Connection, socket.socket]) -> None:
        connection, peer = pair
        connection.write(b"part of a body")
        connection.reset()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)

        async def read_all() -> None:
            while await loop.sock_recv(peer, 1000):
                pass

        with pytest.raises(ConnectionResetError):
            await read_all()

"""The TCP listener that owns its connections."""

import asyncio
import socket

import pytest

from fastrouter.demo.listener import Listener, authority, bind


def test_authority_brackets_ipv6() -> None:
    assert authority("127.0.0.1", 80) == "127.0.0.1:80"
    assert authority("::1", 80) == "[::1]:80"


def test_a_taken_port_is_an_error() -> None:
    with bind(socket.SOCK_STREAM, "127.0.0.1", 0) as sock:
        sock.listen()
        with pytest.raises(OSError, match="in use"):
            bind(socket.SOCK_STREAM, "127.0.0.1", sock.getsockname()[1])


async def test_a_connection_is_closed_when_its_function_returns() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())

    listener = Listener(serve)
    sock = bind(socket.SOCK_STREAM, "127.0.0.1", 0)
    port = sock.getsockname()[1]
    await listener.start(sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    assert await reader.read() == b"hello\n"
    writer.close()
    await listener.close()
    assert listener.connections == 0


async def test_close_ends_connections_that_would_never_end() -> None:
    started = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.set()
        await asyncio.Event().wait()

    listener = Listener(serve)
    sock = bind(socket.SOCK_STREAM, "127.0.0.1", 0)
    port = sock.getsockname()[1]
    await listener.start(sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await started.wait()
    assert listener.connections == 1
    async with asyncio.timeout(5):
        await listener.close()
        assert await reader.read() == b""
    writer.close()
    assert listener.connections == 0

"""What one connection may hold, in the states that test_bounds.py has not: docs/memory.md names them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastrouter.net.connection import Connection
from fastrouter.net.upstream import Upstream
from tests.properties.mute import Mute
from tests.properties.test_bounds import BOUND, held, stays_bounded
from tests.support import (
    Handler,
    Visit,
    always,
    eventually,
    free_port,
    ok,
    request,
    stage,
)

MEGABYTE = 1024 * 1024
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
FRAME_START = b"\x82\x7f" + (2**40).to_bytes(8)
MASKED_START = b"\x82\xff" + (2**40).to_bytes(8) + b"mask"


def pours(start: bytes, piece: bytes) -> Handler:
    """Return a handler that reads a head and nothing behind it, and sends without end."""

    async def handle(visit: Visit) -> None:
        visit.reader._limit = 1024  # type: ignore[attr-defined]
        await visit.head()
        visit.writer.write(start)
        while True:
            visit.writer.write(piece)
            await visit.writer.drain()

    return handle


@asynccontextmanager
async def sending(client: Mute, start: bytes, piece: bytes) -> AsyncIterator[None]:
    """Let a client that does not read send without end."""

    async def send() -> None:
        await client.send(start)
        while True:
            await client.send(piece)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        client.socket.close()


async def is_stuck_and_bounded(client: Connection, upstream: Upstream) -> None:
    """Wait until neither side takes anything; see that neither holds more than its bound."""
    await eventually(lambda: client.writing_paused and upstream.writing_paused)
    assert client.reading_paused
    assert upstream.reading_paused
    await stays_bounded(lambda: (client, upstream))
    assert client.transport.get_write_buffer_size() + upstream.transport.get_write_buffer_size() <= 2 * BOUND


async def test_bodies_both_ways_that_nobody_reads() -> None:
    async with stage() as router:
        box = await router.sandbox(pours(ok()[:17] + CHUNKED + b"\r\n\r\n", CHUNK))
        mute = Mute(router)
        client = await mute.connect()
        async with sending(mute, request(box, CHUNKED, method=b"POST"), CHUNK):
            await eventually(lambda: client._exchange.upstream is not None)
            upstream = client._exchange.upstream
            assert upstream is not None
            await is_stuck_and_bounded(client, upstream)


async def test_a_tunnel_of_which_nobody_reads() -> None:
    async with stage(websocket_max_message=0) as router:
        box = await router.sandbox(pours(SWITCHED + FRAME_START, CHUNK))
        mute = Mute(router)
        client = await mute.connect()
        # What comes before the switch is held, and passed on with it.
        async with sending(mute, request(box, *UPGRADE) + MASKED_START, CHUNK):
            await eventually(lambda: client._exchange.tunnel is not None)
            upstream = client._exchange.upstream
            assert upstream is not None
            await is_stuck_and_bounded(client, upstream)


async def test_an_upload_waits_in_its_client_during_the_dial() -> None:
    async with stage(dial_retry=60.0) as router:
        router.zone["box.default.svc.cluster.local"] = ["127.0.0.1"]
        mute = Mute(router)
        client = await mute.connect()
        async with sending(mute, request(free_port(), CHUNKED, method=b"POST"), CHUNK):
            await eventually(lambda: client.reading_paused)
            assert router.server.pool.dialer.attempts > 0
            await stays_bounded(lambda: (client,))


async def test_a_head_is_kept_while_it_comes_and_refused_when_it_is_too_long() -> None:
    async with stage() as router:
        client = await router.client()
        start = b"GET / HTTP/1.1\r\nHost: r\r\n" + b"X-A: 1\r\n" * 200
        await client.send(start)
        await eventually(lambda: any(each.buffer == start for each in router.server.connections))
        (side,) = router.server.connections
        client.writer.write(b"X-B: " + b"b" * 2 * MEGABYTE)
        await stays_bounded(lambda: (side,))
        assert (await client.error())[0] == 431


async def test_what_a_refused_client_sends_on_is_thrown_away() -> None:
    async with stage() as router:
        client = await router.client()
        await client.send(b"GARBAGE\r\n\r\n")
        assert (await client.error())[0] == 400
        (side,) = router.server.connections
        for _ in range(10):
            await client.send(b"x" * 65536)
            await eventually(lambda: side.buffer == b"")
            assert held(side) <= BOUND
        client.close()
        await eventually(lambda: not router.server.connections)


async def test_idle_connections_hold_no_bytes() -> None:
    body = b"x" * MEGABYTE
    async with stage() as router:
        box = await router.sandbox(always(ok(body)))
        client = await router.client()
        for _ in range(3):
            await client.send(request(box, method=b"POST", body=body))
            assert (await client.response())[1] == body
        await eventually(lambda: router.server.pool.statistics()["upstream_idle"] == 1)
        (side,) = router.server.connections
        (upstream,) = router.server.pool._wheel
        assert (held(side, upstream), side.pipe, upstream.pipe) == (0, None, None)

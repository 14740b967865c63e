"""What a peer that stalls or floods can make the router hold: memory, time of the event loop, connections."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import cast

import pytest

from fastrouter.net.connection import Connection
from fastrouter.net.upstream import Upstream
from fastrouter.policy.plan import RequestPlan, ResponsePlan, plan_request, plan_response
from fastrouter.policy.rules import Rules
from fastrouter.policy.templates import RequestTemplates, ResponseTemplates
from fastrouter.telemetry.access_log import NO_SUBJECT, AccessLog
from fastrouter.telemetry.outcome import Outcome
from fastrouter.wire.head_cache import Generations, HeadCache
from tests.properties.mute import Mute
from tests.support import Stage, Visit, always, eventually, ok, request, stage

# The high-water mark of a transport (64 KiB) or of unread bytes (64 KiB), and one read of the event loop
# (256 KiB) on top; what waits in the outbox is 32 KiB of small pieces.
BOUND = (64 + 32 + 256) * 1024
# Within a body of known length one read may be longer; of 16 connections in all (net/bulk.py).
LONG_BOUND = (64 + 1024) * 1024
_KIB64 = b"x" * 65536
_SMALL_CHUNKS = (b"80\r\n" + b"x" * 128 + b"\r\n") * 500  # more than are read in one go
_CHUNK = b"10000\r\n" + _KIB64 + b"\r\n"


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


@pytest.fixture
async def mute(router: Stage) -> AsyncIterator[Mute]:
    client = Mute(router)
    yield client
    client.socket.close()


def endless(start: bytes, piece: bytes) -> Callable[[Visit], AsyncIterator[None]]:
    """Return a handler that reads a head and then sends ``piece`` for ever."""

    async def handle(visit: Visit) -> None:
        await visit.head()
        visit.writer.write(start)
        while True:
            visit.writer.write(piece)
            await visit.writer.drain()

    return handle  # type: ignore[return-value]


def held(*connections: Connection | None) -> int:
    """Return the bytes that the router holds for these connections, outside the kernel."""
    sizes = [(len(c.buffer), c.transport.get_write_buffer_size()) for c in connections if c is not None]
    return max(max(pair) for pair in sizes)


async def stays_bounded(connections: Callable[[], tuple[Connection | None, ...]], bound: int = BOUND) -> None:
    """Watch for many turns of the event loop: a flood would show."""
    for _ in range(300):
        assert held(*connections()) <= bound
        await asyncio.sleep(0)


STREAMS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", _KIB64),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", _CHUNK),
    "small chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", _SMALL_CHUNKS),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\n", _KIB64),
}


@pytest.mark.parametrize(("start", "piece"), STREAMS.values(), ids=STREAMS.keys())
async def test_a_response_waits_in_the_sandbox_while_the_client_does_not_read(
    router: Stage, mute: Mute, start: bytes, piece: bytes
) -> None:
    box = await router.sandbox(endless(start, piece))  # type: ignore[arg-type]
    client = await mute.connect()
    await mute.send(request(box))

    def upstream() -> Upstream | None:
        return client._exchange.upstream

    await eventually(
        lambda: (side := upstream()) is not None and side.reading_paused and client.writing_paused
    )
    await stays_bounded(lambda: (client, upstream()), LONG_BOUND if b"Length" in start else BOUND)
    assert client.writing_paused
    # It was a pause and no end: what the client reads now makes room for more.
    total = 0
    while total < 8 * BOUND:
        total += len(await mute.read())
    await eventually(lambda: client.writing_paused)


UPLOADS = {
    "length": (b"Content-Length: 99999999999", _KIB64),
    "chunked": (b"Transfer-Encoding: chunked", _CHUNK),
    "small chunks": (b"Transfer-Encoding: chunked", _SMALL_CHUNKS),
}


@pytest.mark.parametrize(("framing", "piece"), UPLOADS.values(), ids=UPLOADS.keys())
async def test_a_request_waits_in_the_client_while_the_sandbox_does_not_read(
    router: Stage, framing: bytes, piece: bytes
) -> None:
    go_on = asyncio.Event()
    got = 0

    async def handle(visit: Visit) -> None:
        nonlocal got
        visit.reader._limit = 1024  # type: ignore[attr-defined]
        await visit.head()
        await go_on.wait()
        while data := await visit.reader.read(65536):
            got += len(data)

    box = await router.sandbox(handle)
    client = await router.client()
    client.writer.write(request(box, framing, method=b"POST"))

    async def push() -> None:
        while True:
            client.writer.write(piece)
            await client.writer.drain()

    pushing = asyncio.ensure_future(push())
    await eventually(lambda: any(c.reading_paused for c in router.server.connections))
    (side,) = router.server.connections
    bound = LONG_BOUND if b"Length" in framing else BOUND
    await stays_bounded(lambda: (side, side._exchange.upstream), bound)
    go_on.set()
    await eventually(lambda: got > 16 * BOUND)
    pushing.cancel()
    client.writer.transport.abort()


async def test_what_is_pipelined_behind_a_slow_exchange_waits_in_the_client(router: Stage) -> None:
    async def handle(visit: Visit) -> None:
        await visit.head()
        await visit.gone()

    box = await router.sandbox(handle)
    client = await router.client()
    client.writer.write(request(box) + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 200_000)
    await eventually(lambda: any(c.reading_paused for c in router.server.connections))
    (side,) = router.server.connections
    await stays_bounded(lambda: (side, side._exchange.upstream))


PIPELINED = {
    "health checks": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "refused requests": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "proxied requests": b"GET / HTTP/1.1\r\nHost: a\r\nX-Sandbox-ID: box\r\nX-Sandbox-Port: <port>\r\n\r\n",
}


@pytest.mark.parametrize("one", PIPELINED.values(), ids=PIPELINED.keys())
async def test_answers_that_nobody_reads_stop_the_requests(router: Stage, mute: Mute, one: bytes) -> None:
    box = await router.sandbox(always(ok()))
    side = await mute.connect()
    flood = asyncio.ensure_future(mute.send(one.replace(b"<port>", b"%d" % box.port) * 300_000))
    await eventually(lambda: side.writing_paused and len(side.buffer) > 0)
    answered = router.server.metrics.requests
    await stays_bounded(lambda: (side,))
    assert router.server.metrics.requests == answered
    # Reading goes on where it stopped.
    while router.server.metrics.requests < answered + 1000:
        await mute.read()
    flood.cancel()


async def test_a_flood_of_pipelined_requests_leaves_turns_to_others(router: Stage) -> None:
    client, other = await router.client(), await router.client()
    client.writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 9000)
    await other.send(b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n")
    await other.response()
    assert router.server.metrics.requests < 8000


async def test_a_flood_of_informational_responses_ends_and_is_not_stored(router: Stage, mute: Mute) -> None:
    box = await router.sandbox(endless(b"", b"HTTP/1.1 102 \r\n\r\n" * 4000))  # type: ignore[arg-type]
    side = await mute.connect()
    await mute.send(request(box))
    await eventually(lambda: router.server.metrics.faults == 1)
    assert held(side) <= BOUND


def lines(number: int, count: int) -> bytes:
    """Return lines without the space that a value must have before it to be cut out: each head is its own."""
    return b"".join(b"%x:%d\r\n" % (field, number + field) for field in range(count)) + b"\r\n"


def names(number: int, count: int) -> bytes:
    """Return lines with new names: each pair of heads makes a template."""
    return b"".join(b"%x: %%d\r\n" % (number + field) for field in range(count)) + b"\r\n"


def request_cache(limit: int) -> tuple[HeadCache[RequestPlan], bytes]:
    rules = Rules("c")
    heads = HeadCache(partial(plan_request, rules=rules), RequestTemplates(rules), limit=limit)
    return heads, b"GET / HTTP/1.1\r\nHost: a\r\nX-Sandbox-ID: b\r\n"


def response_cache(limit: int) -> tuple[HeadCache[ResponsePlan], bytes]:
    return HeadCache(plan_response, ResponseTemplates(), limit=limit), b"HTTP/1.1 200 OK\r\n"


def memory_of(
    heads: HeadCache[object], kept: Generations[object], arrivals: Callable[[int], list[bytes]]
) -> int:
    """Let heads arrive until a generation is full, and return what they cost."""
    for raw in arrivals(0)[:1]:
        heads.get(raw)
    tracemalloc.start()
    generation = kept.young
    for number in range(1000, 10_000_000, 1000):
        for raw in arrivals(number):
            heads.get(raw)
        if heads.misses > 50 and kept.young is not generation:
            break
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept.young is not generation
    return used


MEMORY = 2 * 2**20


@pytest.mark.parametrize("make", [request_cache, response_cache])
@pytest.mark.parametrize("count", [1, 8, 250])
def test_the_memory_of_a_head_cache_is_bounded_whatever_the_heads_are_made_of(
    make: Callable[[int], tuple[HeadCache[object], bytes]], count: int
) -> None:
    heads, start = make(MEMORY)

    def twice(number: int) -> list[bytes]:
        return [start + lines(number, count)] * 2  # some are kept only when they come again

    assert memory_of(heads, heads.exact, twice) < 1.5 * MEMORY


@pytest.mark.parametrize("make", [request_cache, response_cache])
@pytest.mark.parametrize("count", [1, 8, 60])
def test_the_memory_of_templates_is_bounded_whatever_the_heads_are_made_of(
    make: Callable[[int], tuple[HeadCache[object], bytes]], count: int
) -> None:
    heads, start = make(MEMORY)

    def with_two_values(number: int) -> list[bytes]:
        return [start + names(number, count) % ((value,) * count) for value in (1, 2)]

    used = memory_of(heads, cast("Generations[object]", heads.templates), with_two_values)
    assert used < 1.5 * MEMORY + 64 * heads.misses * 2  # and a note of each head and key that came


def test_access_lines_that_nobody_reads_are_dropped_at_a_bound() -> None:
    read_fd, write_fd = os.pipe()
    log = AccessLog(write_fd)
    subject = NO_SUBJECT.replace('"path":null', '"path":"' + "a" * 16384 + '"')
    try:
        for _ in range(6000):
            log.record(subject, Outcome(0.0), 0.0)
        assert log.dropped
        waiting = sum(len(batch or b"") for batch in list(log._batches.queue))
        assert waiting < 50 * 2**20
    finally:
        os.close(read_fd)  # the writer's pipe breaks, and its thread goes on to the end
        log.close()
        os.close(write_fd)

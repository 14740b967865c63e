"""Bodies between two connections: 50 MB byte-exact in every framing, and no more memory than the buffers."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from functools import cache

import pytest

from fastrouter.demo.dns import DnsServer
from fastrouter.net.splice import Pipe
from fastrouter.wire.framing import LengthBody
from tests.processes import RouterProcess, router_process
from tests.support import (
    Client,
    ScriptedSandbox,
    Stage,
    Visit,
    always,
    eventually,
    ok,
    request,
    settled,
    stage,
)

MEGABYTE = 1024 * 1024
SIZE = 50 * MEGABYTE
MAX_GROWTH = 20 * MEGABYTE

FRAMINGS = ["length", "chunked", "until close"]
FIELD = {
    "length": b"Content-Length: %d" % SIZE,
    "chunked": b"Transfer-Encoding: chunked",
    "until close": b"X-A: 1",
}


@cache
def body() -> bytes:
    return random.Random(50).randbytes(SIZE)  # noqa: S311 - data, no secret


@cache
def digest() -> str:
    return hashlib.sha256(body()).hexdigest()


def even(size: int = 256 * 1024) -> Iterator[bytes]:
    for start in range(0, SIZE, size):
        yield body()[start : start + size]


def uneven(seed: int) -> Iterator[bytes]:
    """Cut at random points; pieces of one byte and of a megabyte are among them."""
    numbers = random.Random(seed)  # noqa: S311 - data, no secret
    start = 0
    while start < SIZE:
        size = numbers.choice([1, numbers.randrange(1, 3000), numbers.randrange(1, MEGABYTE)])
        yield body()[start : start + size]
        start += size


def framed(pieces: Iterator[bytes], framing: str) -> Iterator[bytes]:
    if framing != "chunked":
        yield from pieces
        return
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


class Hash:
    """Takes a framed body piece by piece; tells size and digest of what was in it."""

    def __init__(self, reader: asyncio.StreamReader, framing: str) -> None:
        self._reader = reader
        self._framing = framing
        self._digest = hashlib.sha256()
        self.size = 0

    async def whole(self) -> str:
        if self._framing == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                await self._take(size)
                assert await self._reader.readexactly(2) == b"\r\n"
            assert await self._reader.readexactly(2) == b"\r\n"
        elif self._framing == "length":
            await self._take(SIZE)
        else:
            while data := await self._reader.read(256 * 1024):
                self._add(data)
        return self._digest.hexdigest()

    async def _take(self, size: int) -> None:
        while size:
            data = await self._reader.read(min(size, 256 * 1024))
            assert data
            size -= len(data)
            self._add(data)

    def _add(self, data: bytes) -> None:
        self.size += len(data)
        self._digest.update(data)


async def send_all(stream: Client | Visit, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        stream.writer.write(piece)
        await stream.writer.drain()


class Download:
    """A sandbox that sends the 50 MB to every request."""

    def __init__(self, framing: str, pieces: Iterator[bytes]) -> None:
        self._framing = framing
        self._pieces = pieces
        self.sent = 0

    async def __call__(self, visit: Visit) -> None:
        await visit.head()
        await visit.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % FIELD[self._framing])
        for piece in framed(self._pieces, self._framing):
            visit.writer.write(piece)
            await visit.writer.drain()
            self.sent += len(piece)
        if self._framing != "until close":
            await visit.gone()


class Upload:
    """A sandbox that hashes the body of a request once it may."""

    def __init__(self, framing: str) -> None:
        self._framing = framing
        self.may_read = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        await visit.head()
        await self.may_read.wait()
        await visit.send(ok((await Hash(visit.reader, self._framing).whole()).encode()))
        await visit.gone()


@pytest.fixture
async def router() -> AsyncIterator[Stage]:
    async with stage() as set_:
        yield set_


class TestFiftyMegabytes:
    @pytest.mark.parametrize("pieces", ["even", "random"])
    @pytest.mark.parametrize("framing", FRAMINGS)
    async def test_down(self, router: Stage, framing: str, pieces: str) -> None:
        box = await router.sandbox(Download(framing, even() if pieces == "even" else uneven(1)))
        client = await router.client()
        await client.send(request(box))
        await client.head()
        assert await Hash(client.reader, framing).whole() == digest()

    @pytest.mark.parametrize("pieces", ["even", "random"])
    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_up(self, router: Stage, framing: str, pieces: str) -> None:
        sandbox = Upload(framing)
        sandbox.may_read.set()
        box = await router.sandbox(sandbox)
        client = await router.client()
        await client.send(request(box, FIELD[framing], method=b"PUT"))
        await send_all(client, framed(even() if pieces == "even" else uneven(2), framing))
        assert (await client.response())[1].decode() == digest()

    async def test_up_and_down_at_once(self, router: Stage) -> None:
        async def echo(visit: Visit) -> None:
            await visit.head()
            await visit.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % FIELD["length"])
            while data := await visit.reader.read(256 * 1024):
                visit.writer.write(data)
                await visit.writer.drain()

        box = await router.sandbox(echo)
        client = await router.client()
        await client.send(request(box, FIELD["length"], method=b"POST"))
        await client.head()
        sending = asyncio.create_task(send_all(client, even()))
        assert await Hash(client.reader, "length").whole() == digest()
        await sending


class TestMemory:
    """Against a peer that stopped reading, the router's memory does not grow with the body."""

    @pytest.fixture
    async def dns(self) -> AsyncIterator[DnsServer]:
        async with DnsServer({"box.default.svc.cluster.local": ["127.0.0.1"]}) as server:
            yield server

    @pytest.fixture
    async def process(self, dns: DnsServer) -> AsyncIterator[RouterProcess]:
        async with router_process(DNS_SERVERS=dns.address) as process:
            yield process

    @pytest.mark.parametrize("framing", FRAMINGS)
    async def test_down_to_a_reader_that_stopped(self, process: RouterProcess, framing: str) -> None:
        download = Download(framing, even())
        box = ScriptedSandbox(download)
        await box.start()
        client = await process.client()
        await warm_up(process)
        before = process.resident
        await client.send(request(box))
        await client.head()
        assert await settled(lambda: download.sent) < SIZE
        assert process.resident - before < MAX_GROWTH
        assert await Hash(client.reader, framing).whole() == digest()
        assert process.resident - before < MAX_GROWTH
        client.close()
        await box.close()

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_up_to_a_sandbox_that_stopped(self, process: RouterProcess, framing: str) -> None:
        upload = Upload(framing)
        box = ScriptedSandbox(upload)
        await box.start()
        client = await process.client()
        await warm_up(process)
        before = process.resident
        await client.send(request(box, FIELD[framing], method=b"POST"))
        sent: list[int] = []

        def counted() -> Iterator[bytes]:
            for piece in even():
                sent.append(len(piece))
                yield piece

        sending = asyncio.create_task(send_all(client, framed(counted(), framing)))
        await eventually(lambda: bool(sent))
        assert await settled(lambda: sum(sent)) < SIZE
        assert process.resident - before < MAX_GROWTH
        upload.may_read.set()
        assert (await client.response())[1].decode() == digest()
        await sending
        client.close()
        await box.close()


async def warm_up(process: RouterProcess) -> None:
    """Load what the first request loads, so that it is not counted."""
    box = ScriptedSandbox(always(ok()))
    await box.start()
    client = await process.client()
    await client.send(request(box))
    await client.response()
    client.close()
    await box.close()


class TestPipe:
    async def test_many_tiny_chunks_leave_others_their_turn(self, router: Stage) -> None:
        chunks = b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n"
        box = await router.sandbox(always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
        client, other = await router.client(), await router.client()
        turns = 0

        async def probe() -> None:
            nonlocal turns
            while True:
                await other.send(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
                await other.response()
                turns += 1

        probing = asyncio.create_task(probe())
        await client.send(request(box))
        await client.head()
        total = 0
        while size := int(await client.reader.readuntil(b"\r\n"), 16):
            total += size
            await client.exactly(size + 2)
        assert total == 40_000
        assert turns > 10
        probing.cancel()

    async def test_bytes_behind_a_body_stay_with_the_connection(self, router: Stage) -> None:
        await router.client()
        await router.client()
        await eventually(lambda: len(router.server.connections) == 2)
        source, sink = router.server.connections
        ended: list[bool] = []
        source.buffer = b"bodynext"
        pipe = Pipe(source, sink, LengthBody(4), lambda: ended.append(True), lambda _error: None)
        assert repr(pipe) == "<Pipe LengthBody total=0 done=False>"
        pipe.attach()
        assert (source.buffer, source.pipe, sink.source, ended) == (b"next", None, None, [True])

    async def test_a_pause_of_the_sink_pauses_the_source_and_detaching_ends_that(self, router: Stage) -> None:
        await router.client()
        await router.client()
        await eventually(lambda: len(router.server.connections) == 2)
        source, sink = router.server.connections
        sink.writing_paused = True
        pipe = Pipe(source, sink, LengthBody(4), lambda: None, lambda _error: None)
        pipe.attach()
        paused = [source.reading_paused]
        for change in (sink.resume_writing, sink.pause_writing, pipe.detach, sink.resume_writing):
            change()
            paused.append(source.reading_paused)
        assert paused == [True, False, True, True, True]
        pipe.feed(b"late")  # a continuation that outlived its exchange: nothing is written
        assert pipe.body.total == 0

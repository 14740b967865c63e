"""httpcore streams over transports, and transports over httpcore streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpcore
import pytest

from fastrouter.net.stream import StreamTransport, TransportStream
from tests.support import ScriptedSandbox, Visit, eventually


class Recorder(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = b""
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.events.append("lost")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Scripted:
    """A sandbox whose one visit the test drives itself."""

    def __init__(self) -> None:
        self.came: asyncio.Future[Visit] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.sandbox = ScriptedSandbox(self._handle)

    async def _handle(self, visit: Visit) -> None:
        self.came.set_result(visit)
        await self.over.wait()


@pytest.fixture
async def link() -> AsyncIterator[tuple[TransportStream, Visit]]:
    scripted = Scripted()
    await scripted.sandbox.start()
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(TransportStream, "127.0.0.1", scripted.sandbox.port)
    yield stream, await scripted.came
    scripted.over.set()
    await stream.aclose()
    await scripted.sandbox.close()


Link = tuple[TransportStream, Visit]


class TestTransportStream:
    async def test_bytes_pass_both_ways(self, link: Link) -> None:
        stream, peer = link
        await stream.write(b"ping", timeout=5.0)
        assert await peer.exactly(4) == b"ping"
        await peer.send(b"pong")
        assert await stream.read(100, timeout=5.0) == b"pong"

    async def test_a_read_takes_no_more_than_it_was_asked_for(self, link: Link) -> None:
        stream, peer = link
        await peer.send(b"abcdef")
        assert [await stream.read(size, timeout=5.0) for size in (2, 3, 10)] == [b"ab", b"cde", b"f"]
        await peer.send(b"next")
        assert await stream.read(10, timeout=5.0) == b"next"

    async def test_the_end_is_an_empty_read(self, link: Link) -> None:
        stream, peer = link
        await peer.send(b"last")
        peer.close()
        assert await stream.read(10, timeout=5.0) == b"last"
        assert await stream.read(10, timeout=5.0) == b""
        assert stream.get_extra_info("is_readable")

    async def test_a_reset_is_a_read_error(self, link: Link) -> None:
        stream, peer = link
        peer.reset()
        with pytest.raises(httpcore.ReadError):
            await stream.read(10, timeout=5.0)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")

    async def test_silence_is_a_read_timeout(self, link: Link) -> None:
        stream, _ = link
        assert not stream.get_extra_info("is_readable")
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(10, timeout=0.05)

    async def test_a_peer_that_takes_nothing_is_a_write_timeout(self, link: Link) -> None:
        stream, _ = link
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(b"x" * 30_000_000, timeout=0.1)

    async def test_a_write_waits_for_room(self, link: Link) -> None:
        stream, peer = link
        writing = asyncio.create_task(stream.write(b"x" * 30_000_000, timeout=10.0))
        await asyncio.sleep(0.05)
        assert not writing.done()
        await peer.exactly(30_000_000)
        await writing

    async def test_it_tells_the_addresses(self, link: Link) -> None:
        stream, peer = link
        assert stream.get_extra_info("client_addr") == peer.writer.get_extra_info("peername")
        assert stream.get_extra_info("server_addr") == peer.writer.get_extra_info("sockname")
        assert stream.get_extra_info("ssl_object") is None

    async def test_what_came_before_the_hand_over_is_handed_over(self, link: Link) -> None:
        stream, peer = link
        await peer.send(b"early ")
        await eventually(lambda: bool(stream.get_extra_info("is_readable")))
        protocol = Recorder()
        stream.hand_over(protocol)
        await peer.send(b"late")
        await eventually(lambda: protocol.data == b"early late")
        peer.close()
        await eventually(lambda: protocol.events == ["made", "eof", "lost"])

    async def test_an_end_before_the_hand_over_is_told(self, link: Link) -> None:
        stream, peer = link
        peer.close()
        await eventually(lambda: bool(stream.get_extra_info("is_readable")))
        protocol = Recorder()
        stream.hand_over(protocol)
        assert protocol.events == ["made", "eof", "lost"]


class FakeStream(httpcore.AsyncNetworkStream):
    """A stream whose reads and writes the test lets through one by one."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.may_write = asyncio.Event()
        self.write_error: Exception | None = None
        self.close_error: Exception | None = None
        self.written = b""
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        piece = await self.reads.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        await self.may_write.wait()
        if self.write_error is not None:
            raise self.write_error
        self.written += buffer

    async def aclose(self) -> None:
        self.closed = True
        if self.close_error is not None:
            raise self.close_error

    def get_extra_info(self, info: str) -> Any:
        return {"server_addr": ("10.0.0.1", 80)}.get(info)


@pytest.fixture
async def stream() -> FakeStream:
    return FakeStream()


class TestStreamTransport:
    async def test_the_protocol_gets_the_bytes_and_the_end(self, stream: FakeStream) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        for piece in (b"ab", b"c", b""):
            stream.reads.put_nowait(piece)
        await eventually(lambda: protocol.events == ["made", "eof", "lost"])
        assert (protocol.data, protocol.error) == (b"abc", None)
        assert transport.is_closing()
        await eventually(lambda: stream.closed)

    async def test_what_was_written_is_sent_before_the_close(self, stream: FakeStream) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        for piece in (b"one ", bytearray(b"two "), memoryview(b"three")):
            transport.write(piece)
        transport.close()
        transport.write(b" too late")
        assert not stream.closed
        stream.may_write.set()
        await eventually(lambda: stream.closed)
        assert stream.written == b"one two three"
        assert protocol.events == ["made", "lost"]

    @pytest.mark.parametrize("at_once", [True, False])
    async def test_abort_sends_nothing_more(self, stream: FakeStream, at_once: bool) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        transport.write(b"never")
        if not at_once:
            await asyncio.sleep(0.01)
        transport.abort()
        await eventually(lambda: stream.closed)
        assert stream.written == b""
        assert protocol.events == ["made", "lost"]

    async def test_a_full_buffer_pauses_the_protocol_until_it_drains(self, stream: FakeStream) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        transport.write(b"x" * 65_536)
        assert protocol.events == ["made"]
        transport.write(b"x")
        transport.write(b"x")
        assert protocol.events == ["made", "pause"]
        assert transport.get_write_buffer_size() == 65_538
        stream.may_write.set()
        await eventually(lambda: protocol.events == ["made", "pause", "resume"])
        assert transport.get_write_buffer_size() <= 65_536 // 4
        transport.abort()
        await eventually(lambda: stream.closed)

    async def test_a_paused_transport_reads_no_further(self, stream: FakeStream) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        transport.pause_reading()
        await asyncio.sleep(0)
        stream.reads.put_nowait(b"x")
        await asyncio.sleep(0.02)
        assert protocol.data == b""
        transport.resume_reading()
        await eventually(lambda: protocol.data == b"x")
        transport.abort()
        await eventually(lambda: stream.closed)

    @pytest.mark.parametrize("error", [httpcore.ReadError("reset"), ValueError("a foreign error")])
    async def test_a_failed_read_is_told_with_its_error(self, stream: FakeStream, error: Exception) -> None:
        protocol = Recorder()
        StreamTransport(stream, protocol)
        stream.reads.put_nowait(error)
        await eventually(lambda: stream.closed)
        assert (protocol.events, protocol.error) == (["made", "lost"], error)

    @pytest.mark.parametrize("error", [httpcore.WriteError("reset"), ValueError("a foreign error")])
    async def test_a_failed_write_is_told_with_its_error(self, stream: FakeStream, error: Exception) -> None:
        protocol = Recorder()
        transport = StreamTransport(stream, protocol)
        stream.write_error = error
        stream.close_error = httpcore.NetworkError("gone already")
        stream.may_write.set()
        transport.write(b"x")
        await eventually(lambda: stream.closed)
        assert (protocol.events, protocol.error) == (["made", "lost"], error)

    async def test_the_protocol_may_change(self, stream: FakeStream) -> None:
        first, second = Recorder(), Recorder()
        transport = StreamTransport(stream, first)
        transport.set_protocol(second)
        stream.reads.put_nowait(b"x")
        await eventually(lambda: second.data == b"x")
        assert first.data == b""
        transport.abort()
        await eventually(lambda: second.events == ["lost"])

    async def test_it_tells_the_peer_under_the_name_that_transports_use(self, stream: FakeStream) -> None:
        transport = StreamTransport(stream, Recorder())
        assert transport.get_extra_info("peername") == ("10.0.0.1", 80)
        assert transport.get_extra_info("socket", "none") == "none"
        assert transport.get_loop() is asyncio.get_running_loop()
        transport.close()
        await eventually(lambda: stream.closed)

    async def test_httpcores_mock_stream_is_enough(self) -> None:
        protocol = Recorder()
        transport = StreamTransport(httpcore.AsyncMockStream([b"a", b"b"]), protocol)
        transport.write(b"request")
        await eventually(lambda: protocol.events == ["made", "eof", "lost"])
        assert protocol.data == b"ab"
